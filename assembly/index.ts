export { expandBlank, expandZero } from "./expand";
export { scanPages } from "./scan";
export { isZero } from "./zero";
