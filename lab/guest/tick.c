/* Prints a counter to the second serial port every 10 ms, before all other work of the guest: the host's clock over its
 * lines shows when the guest did not run. */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { PERIOD_NS = 10 * 1000 * 1000, SECOND_NS = 1000 * 1000 * 1000 };

int main(void)
{
	int port = open("/dev/ttyS1", O_WRONLY | O_NOCTTY);
	struct termios settings;
	struct sched_param priority = {.sched_priority = 50};
	if (port < 0 || tcgetattr(port, &settings) != 0) {
		perror("tick: /dev/ttyS1");
		return 1;
	}
	cfmakeraw(&settings);
	cfsetspeed(&settings, B115200);
	if (tcsetattr(port, TCSANOW, &settings) != 0 || sched_setscheduler(0, SCHED_FIFO, &priority) != 0 ||
	    mlockall(MCL_CURRENT) != 0) {
		perror("tick");
		return 1;
	}
	struct timespec next, now;
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (unsigned long counter = 0;; counter++) {
		dprintf(port, "%lu\n", counter);
		next.tv_nsec += PERIOD_NS;
		if (next.tv_nsec >= SECOND_NS) {
			next.tv_nsec -= SECOND_NS;
			next.tv_sec++;
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec > next.tv_sec || (now.tv_sec == next.tv_sec && now.tv_nsec > next.tv_nsec))
			next = now; /* late: no burst to catch up */
		else
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
}
