/*
 * The load in the guest: dirties pages at a given rate and checks all of them, again and again.
 *
 *   load mib=N,rate=PAGES_PER_SECOND,pattern=word|random|sparse[,order=walk|random][,on=MS,off=MS]
 *
 * Page i holds its number, a version with a checksum, and contents that number and version determine:
 *
 *   word 0      number
 *   word 1      version << 32 | checksum(number, version)
 *   word 2..511 xorshift64 of (number, seed); the seed is the version (random) or always 0 (word); or all zero (sparse)
 *
 * so "word" and "sparse" change one word a page and "random" the whole page. Pages are written in order, round and round: those
 * before the cursor have the current version, those behind it the one before. With order=random any page is the next, and a
 * table keeps their versions. A page that a migration lost, tore or put elsewhere is thus found by the next walk, even if it is
 * whole in itself.
 *
 * Prints to standard output (the console):
 *   load: walk K clean pages=P versions=V rate=R      V: page writes so far; R: pages/s written since the last such line
 *   load: walk K ERRORS=E pages=P versions=V rate=R
 *   load: ERROR page=I word=W expected=X found=Y      at once, for the first errors of a walk
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
	PAGE_WORDS = 4096 / 8,
	HEADER_WORDS = 2,
	SLICE_NS = 5 * 1000 * 1000,    /* the rate is held over slices of this length */
	CHECK_NS = 1 * 1000 * 1000,    /* of which this much goes into checking: a fifth of a CPU */
	MIN_CHECK_PAGES = 4,           /* a walk goes on even when writing takes all the time */
	MAX_BACKLOG_NS = 100 * 1000 * 1000, /* what was missed while the VM stood still is not made up for */
	MAX_ERROR_LINES = 10,          /* a walk */
};

enum pattern { WORD, RANDOM, SPARSE };
enum order { WALK, ANY };

struct options {
	uint64_t mib, rate, on_ms, off_ms;
	enum pattern pattern;
	enum order order;
};

static uint64_t *pages;
static uint64_t page_count;
static struct options options;
static uint64_t cursor, version = 1; /* pages before the cursor have `version`, the others `version - 1` */
static uint32_t *versions;           /* of each page; null for order=walk */

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t mix(uint64_t x) /* the finalizer of SplitMix64 */
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static uint64_t stamp(uint64_t number, uint64_t v)
{
	return v << 32 | (uint32_t)mix(number * 0x9e3779b97f4a7c15u + v);
}

/* What word 2 follows from; xorshift64 makes zeros of zero. */
static uint64_t first_random(uint64_t number, uint64_t v)
{
	if (options.pattern == SPARSE)
		return 0;
	return mix((number << 32 | (options.pattern == RANDOM ? v : 0)) + 0x9e3779b97f4a7c15u) | 1;
}

static uint64_t next_random(uint64_t x)
{
	x ^= x << 13;
	x ^= x >> 7;
	return x ^ x << 17;
}

static void write_page(uint64_t number, uint64_t v, int whole)
{
	uint64_t *page = pages + number * PAGE_WORDS;
	if (whole) {
		uint64_t x = first_random(number, v);
		page[0] = number;
		for (int i = HEADER_WORDS; i < PAGE_WORDS; i++)
			page[i] = x = next_random(x);
	}
	page[1] = stamp(number, v);
}

static int check_word(uint64_t number, int word, uint64_t expected, int report)
{
	uint64_t found = pages[number * PAGE_WORDS + word];
	if (found == expected)
		return 1;
	if (report)
		printf("load: ERROR page=%" PRIu64 " word=%d expected=%016" PRIx64 " found=%016" PRIx64 "\n", number, word,
		       expected, found);
	return 0;
}

static int check_page(uint64_t number, int report)
{
	uint64_t v = versions ? versions[number] : number < cursor ? version : version - 1;
	if (!check_word(number, 0, number, report) || !check_word(number, 1, stamp(number, v), report))
		return 0;
	uint64_t x = first_random(number, v);
	for (int i = HEADER_WORDS; i < PAGE_WORDS; i++) {
		x = next_random(x);
		if (!check_word(number, i, x, report))
			return 0;
	}
	return 1;
}

static void write_next_page(void)
{
	static uint64_t chance = 1;
	if (versions) {
		chance = next_random(chance);
		uint64_t number = mix(chance) % page_count;
		write_page(number, ++versions[number], options.pattern == RANDOM);
		return;
	}
	write_page(cursor, version, options.pattern == RANDOM);
	if (++cursor == page_count) {
		cursor = 0;
		version++;
	}
}

/* Checks pages until `deadline`, prints a line for each finished walk. */
static void walk(uint64_t deadline, uint64_t written)
{
	static uint64_t position, walks, errors, since_ns, since_written;
	if (!since_ns)
		since_ns = now_ns();
	for (int n = 0; n < MIN_CHECK_PAGES || now_ns() < deadline; n++) {
		if (!check_page(position, errors < MAX_ERROR_LINES))
			errors++;
		if (++position < page_count)
			continue;
		uint64_t now = now_ns();
		uint64_t rate = (written - since_written) * 1000000000u / (now - since_ns + 1);
		if (errors)
			printf("load: walk %" PRIu64 " ERRORS=%" PRIu64, ++walks, errors);
		else
			printf("load: walk %" PRIu64 " clean", ++walks);
		printf(" pages=%" PRIu64 " versions=%" PRIu64 " rate=%" PRIu64 "\n", page_count, written, rate);
		position = errors = 0;
		since_ns = now;
		since_written = written;
	}
}

static int writing(uint64_t elapsed_ns)
{
	uint64_t period_ms = options.on_ms + options.off_ms;
	return !options.off_ms || elapsed_ns / 1000000 % period_ms < options.on_ms;
}

static void work(void)
{
	uint64_t start = now_ns(), last = start, written = 0;
	double due = 0; /* pages */
	for (;;) {
		uint64_t now = now_ns(), elapsed = now - last;
		last = now;
		if (writing(now - start))
			due += (double)options.rate * (double)(elapsed < MAX_BACKLOG_NS ? elapsed : MAX_BACKLOG_NS) / 1e9;
		uint64_t deadline = now + SLICE_NS - CHECK_NS;
		for (; due >= 1 && now_ns() < deadline; due--, written++)
			write_next_page();
		if (due > (double)options.rate * MAX_BACKLOG_NS / 1e9)
			due = (double)options.rate * MAX_BACKLOG_NS / 1e9;
		walk(now_ns() + CHECK_NS, written);
		uint64_t end = now_ns();
		if (end - now < SLICE_NS) {
			struct timespec rest = {0, (long)(SLICE_NS - (end - now))};
			nanosleep(&rest, NULL);
		}
	}
}

static void usage(const char *text)
{
	fprintf(stderr, "load: cannot read %s; wanted mib=N,rate=N,pattern=word|random|sparse[,order=walk|random][,on=MS,off=MS]\n",
		text);
	exit(2);
}

static void parse(char *text)
{
	for (char *item = strtok(text, ","); item; item = strtok(NULL, ",")) {
		if (sscanf(item, "mib=%" SCNu64, &options.mib) == 1 || sscanf(item, "rate=%" SCNu64, &options.rate) == 1 ||
		    sscanf(item, "on=%" SCNu64, &options.on_ms) == 1 || sscanf(item, "off=%" SCNu64, &options.off_ms) == 1)
			continue;
		if (!strcmp(item, "pattern=random"))
			options.pattern = RANDOM;
		else if (!strcmp(item, "pattern=sparse"))
			options.pattern = SPARSE;
		else if (!strcmp(item, "order=random"))
			options.order = ANY;
		else if (strcmp(item, "pattern=word") && strcmp(item, "order=walk"))
			usage(item);
	}
	if (!options.mib)
		usage("a load without mib=N");
}

int main(int argc, char **argv)
{
	if (argc != 2)
		usage("the arguments");
	parse(argv[1]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	int ready[2];
	if (pipe(ready) != 0) {
		perror("load: pipe");
		return 1;
	}
	if (fork() != 0) { /* the parent ends when the pages are filled */
		char byte;
		close(ready[1]);
		return read(ready[0], &byte, 1) == 1 ? 0 : 1;
	}
	page_count = options.mib << 20 >> 12;
	pages = mmap(NULL, options.mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (options.order == ANY)
		versions = calloc(page_count, sizeof *versions);
	if (pages == MAP_FAILED || (options.order == ANY && !versions)) {
		perror("load: memory");
		return 1;
	}
	for (uint64_t number = 0; number < page_count; number++)
		write_page(number, 0, 1);
	printf("load: filled pages=%" PRIu64 "\n", page_count);
	if (write(ready[1], "", 1) != 1)
		return 1;
	work();
}
