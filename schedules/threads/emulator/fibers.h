// Threads of a GPU as fibers of one CPU thread. A warp runs until all its lanes wait, and then
// another one that can, chosen by (reproducible) chance: so warps are as far apart as barriers allow.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernel.h"

namespace emulator {

constexpr int WARP = 32, WARPGROUP = 128;

// Threads that wait for each other; `generation` counts how often all have come.
struct Barrier {
  int expected = 0, arrived = 0, generation = 0;
};

// A copy of `bytes` by cp.async, of which `read` come from memory and the rest are zeros.
struct Copy {
  char* to;
  const char* from;
  int bytes, read;
};

// A product of a warpgroup: its registers of a thread, and where its operands lie.
struct Product {
  void (*multiply)(struct Block&, struct Thread*, int);
  void* accumulators;
  int columns;
  uint64_t a, b;
  bool add;
};

struct Warp {
  Barrier barrier;
  const char* instruction;
  void* given[WARP];
};
struct Warpgroup {
  int arrived = 0, generation = 0;
};
// `bytes`: still to arrive. A phase ends when neither arrivals nor bytes are pending.
struct Mbarrier {
  int count, pending, bytes, phase;
};

struct Thread {
  jmp_buf context;
  int index;
  struct Block* block;
  Warp* warp;
  // It waits as long as these bits of the word have this value.
  const int* watched = nullptr;
  int bits, value;
  const char* what;
  bool started = false, done = false;
  // cp.async: not committed, and committed groups in order.
  std::vector<Copy> copies;
  std::deque<std::vector<Copy>> copy_groups;
  // wgmma likewise, and the copy engine's stores.
  std::vector<Product> products;
  std::deque<std::vector<Product>> product_groups;
  bool fenced = false;
  std::vector<std::function<void()>> stores;
  std::deque<std::vector<std::function<void()>>> store_groups;
  int stores_made = 0;
  // Shared memory that it has written, and not yet shown to the copy engine.
  std::vector<uint32_t> unfenced;
  int registers = 0, cluster_generation = -1;
};

struct Block {
  int index, rank, alive, bytes;
  std::vector<char> shared;
  Barrier barrier, named[16];
  std::vector<Warp> warps;
  std::vector<Warpgroup> warpgroups;
  std::vector<Thread> threads;
  std::map<uint32_t, Mbarrier> mbarriers;
  int free_registers = 0, freed = 0;
};

// As `build.Launch`. `resident`: blocks that a multiprocessor holds at a time.
// Blocks of a cluster lie side by side along x.
struct Launch {
  int blocks[3], threads[3], cluster, resident, shared_bytes;
};

static jmp_buf scheduler, abandon;
static Thread* current;
static std::vector<Block> cluster;
static Barrier cluster_barrier;
static void (*kernel)(void**);
static void** arguments;
static const Launch* launch;
static std::string failure;
// What takes its time: it happens, in no order to rely on, when nothing else can.
static std::vector<std::function<void()>> late;
static uint32_t chance;

[[noreturn]] static void fail(const std::string& why) {
  failure = why;
  _longjmp(abandon, 1);
}
static uint32_t draw() { return (chance = chance * 1664525 + 1013904223) >> 8; }

static bool waits(const Thread& thread) {
  return thread.done || (thread.watched && (*thread.watched & thread.bits) == thread.value);
}
static void wait(const char* what, const int& word, int bits, int value) {
  while ((word & bits) == value) {
    Thread& me = *current;
    me.watched = &word, me.bits = bits, me.value = value, me.what = what;
    if (!_setjmp(me.context)) _longjmp(scheduler, 1);
  }
}
static bool complete(Barrier& barrier) {
  if (!barrier.arrived || barrier.arrived != barrier.expected) return false;
  barrier.arrived = 0;
  barrier.generation++;
  return true;
}
static void arrive_and_wait(Barrier& barrier, const char* what) {
  int generation = barrier.generation;
  barrier.arrived++;
  if (!complete(barrier)) wait(what, barrier.generation, ~0, generation);
}
static void leave(Barrier& barrier) {
  barrier.expected--;
  complete(barrier);
}

// Carries out an instruction of a whole warp: the last lane to arrive does it for all of them.
template <class Operands, class Meaning>
static void together(const char* instruction, Operands& mine, Meaning meaning) {
  Warp& warp = *current->warp;
  if (warp.barrier.expected != WARP)
    fail(std::string(instruction) + " in a warp of fewer than 32 threads");
  if (!warp.barrier.arrived) {
    warp.instruction = instruction;
  } else if (strcmp(warp.instruction, instruction)) {
    fail(std::string("lanes of a warp are at ") + warp.instruction + " and at " + instruction);
  }
  warp.given[current->index % WARP] = &mine;
  if (warp.barrier.arrived == WARP - 1) meaning(reinterpret_cast<Operands**>(warp.given));
  arrive_and_wait(warp.barrier, instruction);
}

static void enter() {
  kernel(arguments);
  current->done = true;
  current->block->alive--;
  leave(current->block->barrier);
  leave(cluster_barrier);
  _longjmp(scheduler, 1);
}

// An address in shared memory: an offset, and above it one more than the rank of the block meant.
// Shared memory begins where a block's own does on a GPU; beyond its end is what must stay NaN.
constexpr int RANK = 20, BEGIN = 1024, GUARD = 4096;
static char* shared(uint32_t address, int bytes = 16, Block* block = nullptr) {
  uint32_t rank = address >> RANK, offset = address & ((1u << RANK) - 1);
  if (rank) {
    block = &cluster[rank - 1];
    if (!block->alive) fail("shared memory of a block that has ended is accessed");
  } else if (!block) {
    block = current->block;
  }
  if (offset < BEGIN || offset + bytes > uint32_t(BEGIN + block->bytes))
    fail("byte " + std::to_string(int(offset) - BEGIN) + " is outside of shared memory");
  if (offset % std::min(bytes, 16))
    fail("byte " + std::to_string(int(offset) - BEGIN) + " of shared memory is not aligned to " +
         std::to_string(std::min(bytes, 16)));
  return block->shared.data() + offset;
}

static void prepare(int first) {
  int threads = launch->threads[0] * launch->threads[1] * launch->threads[2];
  cluster.clear();
  cluster.resize(launch->cluster);
  cluster_barrier = {launch->cluster * threads, 0, 0};
  late.clear();
  for (int rank = 0; rank < launch->cluster; rank++) {
    Block& block = cluster[rank];
    block.index = first + rank;
    block.rank = rank;
    block.alive = threads;
    block.bytes = launch->shared_bytes;
    block.shared.assign(BEGIN + block.bytes + GUARD, char(0xff));
    block.barrier.expected = threads;
    block.warps.resize((threads + WARP - 1) / WARP);
    block.warpgroups.resize((threads + WARPGROUP - 1) / WARPGROUP);
    block.threads.resize(threads);
    for (int i = 0; i < threads; i++) {
      Thread& thread = block.threads[i];
      thread.index = i;
      thread.block = &block;
      thread.warp = &block.warps[i / WARP];
      thread.warp->barrier.expected++;
      thread.registers = std::min(65536 / launch->resident / threads / 8 * 8, 255);
    }
  }
}

static std::map<int, std::unique_ptr<char[]>> stacks;
// Starts the thread or goes on with it, until it waits.
static void resume(Thread& thread) {
  constexpr int STACK = 256 << 10;
  current = &thread;
  thread.watched = nullptr;
  if (_setjmp(scheduler)) return;
  if (thread.started) _longjmp(thread.context, 1);
  thread.started = true;
  auto& stack = stacks[thread.block->rank << 11 | thread.index];
  if (!stack) stack.reset(new char[STACK]);
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stack.get();
  context.uc_stack.ss_size = STACK;
  makecontext(&context, enter, 0);
  setcontext(&context);
}
// As long as a lane of the warp can go on. Gives whether any could.
static bool run_warp(Thread* lanes, int count) {
  bool any = false;
  for (bool more = true; more;) {
    more = false;
    for (int i = 0; i < count; i++)
      if (!waits(lanes[i])) {
        resume(lanes[i]);
        any = more = true;
      }
  }
  return any;
}

[[noreturn]] static void deadlock() {
  std::map<std::string, int> waiting;
  for (Block& block : cluster)
    for (Thread& thread : block.threads)
      if (!thread.done) waiting[thread.what]++;
  std::string why = "deadlock:";
  for (auto& [what, count] : waiting) why += " " + std::to_string(count) + " wait for " + what + ",";
  why.pop_back();
  fail(why);
}

static void run_cluster() {
  std::vector<std::pair<Thread*, int>> warps;
  for (Block& block : cluster)
    for (size_t i = 0; i < block.threads.size(); i += WARP)
      warps.push_back({&block.threads[i], block.warps[i / WARP].barrier.expected});
  while (cluster_barrier.expected) {
    bool any = false;
    size_t first = draw() % warps.size();
    for (size_t i = 0; i < warps.size(); i++) {
      auto [lanes, count] = warps[(first + i) % warps.size()];
      any |= run_warp(lanes, count);
    }
    if (any || !cluster_barrier.expected) continue;
    if (late.empty()) deadlock();
    // Mostly what was begun last, so that what nobody waits for is late indeed.
    uint32_t number = draw();
    size_t chosen = number & 3 ? late.size() - 1 : (number >> 2) % late.size();
    auto happens = std::move(late[chosen]);
    late.erase(late.begin() + chosen);
    happens();
  }
  if (!late.empty()) fail("a block ends before what it has started");
  for (Block& block : cluster)
    for (int i = 0; i < BEGIN + block.bytes + GUARD; i++)
      if ((i < BEGIN || i >= BEGIN + block.bytes) && block.shared[i] != char(0xff))
        fail("something was written beside shared memory");
}

}  // namespace emulator
