// The emulator itself, compiled once: fibers, and what every instruction does.
#include "copies.h"
#include "hopper.h"
#include "warp.h"

// g++ calls this, in place of its own library's, where a vector is accessed that is not aligned.
extern "C" void __ubsan_handle_type_mismatch_v1_abort(void*, void*) {
  emulator::fail("a vector is read or written where it is not aligned");
}

// Runs the kernel; gives what went wrong, or null.
extern "C" const char* run(
    void (*kernel)(void**), void** arguments, const emulator::Launch* launch) {
  using namespace emulator;
  if (_setjmp(abandon)) return failure.c_str();
  failure.clear();
  chance = 1;
  emulator::kernel = kernel, emulator::arguments = arguments, emulator::launch = launch;
  int blocks = launch->blocks[0] * launch->blocks[1] * launch->blocks[2];
  if (launch->blocks[0] % launch->cluster) fail("the grid is not made of whole clusters");
  for (int first = 0; first < blocks; first += launch->cluster) {
    prepare(first);
    run_cluster();
  }
  stacks.clear();
  return nullptr;
}
