// The emulator itself, compiled once: fibers, and what every instruction does.
#include "copies.h"
#include "hopper.h"
#include "warp.h"

// Runs the kernel; gives what went wrong, or null.
extern "C" const char* run(
    void (*kernel)(void**), void** arguments, const emulator::Launch* launch) {
  using namespace emulator;
  if (_setjmp(abandon)) return failure.c_str();
  failure.clear();
  chance = 1;
  emulator::kernel = kernel, emulator::arguments = arguments;
  if (launch->threads % WARP) fail("a block is not made of whole warps");
  for (int first = 0; first < launch->blocks; first += launch->cluster) {
    prepare(first, *launch);
    run_cluster();
  }
  stacks.clear();
  return nullptr;
}
