// What the CUDA text of a kernel of instructions needs to run on a CPU: its threads are fibers that
// take turns, and what a warp, a block or a cluster does together waits until all have arrived.
// Copies marked asynchronous are made no sooner than they are waited for, so that a missing wait
// shows; before that, shared memory holds NaN.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

typedef _Float16 half;
typedef unsigned int uint;
typedef unsigned char uchar;
struct half4 { half x, y, z, w; };
struct uint2 { uint x, y; };
struct uint4 { uint x, y, z, w; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline half4 make_half4(half x, half y, half z, half w) { return {x, y, z, w}; }
using std::max;
using std::min;
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define __restrict__

namespace on_cpu {

struct Meeting {
  int expected = 0, arrived = 0, generation = 0;
};

struct Copy {
  half* to;
  const half* from;
};

// Of sm_90a: see hopper_on_cpu.h.
struct Product {
  float* sums;
  int columns;
  uint64_t a, b;
  bool add;
};
struct Mbarrier {
  int count, pending, bytes, phase;
};
struct Warpgroup {
  int arrived = 0, generation = 0;
};
struct Hopper {
  std::vector<Product> open;
  std::deque<std::vector<Product>> groups;
  std::vector<std::function<void()>> stores;
  std::deque<std::vector<std::function<void()>>> store_groups;
  std::vector<uint32_t> unfenced;
  bool fenced = false;
  int stores_made = 0, registers = 0, cluster_generation = -1;
};

struct Block;
struct Warp {
  Meeting meeting;
  uint32_t words[32][8];
};
struct Thread {
  jmp_buf context;
  int index;
  Block* block;
  Warp* warp;
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> open;
  Hopper hopper;
  // What it waits for: as long as those bits of the word have that value.
  const int* watched = nullptr;
  int bits, value;
  const char* what;
  bool started = false, done = false;
};
struct Block {
  int index, rank, alive, bytes;
  std::vector<char> shared;
  Meeting meeting, named[16];
  std::vector<Warp> warps;
  std::vector<Warpgroup> warpgroups;
  std::vector<Thread> threads;
  std::map<uint32_t, Mbarrier> mbarriers;
  int free_registers = 0, freed = 0;
};

inline jmp_buf scheduler, abandon;
inline Thread* current;
inline std::vector<Block> cluster;
inline Meeting cluster_meeting;
inline void (*body)();
inline std::string failure;
// What takes its time: it happens, in no order to rely on, when nothing else can.
inline std::vector<std::function<void()>> late;

[[noreturn]] inline void fail(const std::string& why) {
  failure = why;
  _longjmp(abandon, 1);
}

inline void yield() {
  if (!_setjmp(current->context)) _longjmp(scheduler, 1);
}
inline void wait(const char* what, const int& word, int bits, int value) {
  while ((word & bits) == value) {
    Thread& me = *current;
    me.watched = &word, me.bits = bits, me.value = value, me.what = what;
    yield();
  }
}
inline bool complete(Meeting& meeting) {
  if (!meeting.arrived || meeting.arrived != meeting.expected) return false;
  meeting.arrived = 0;
  meeting.generation++;
  return true;
}
inline void meet(Meeting& meeting, const char* what = "each other") {
  int generation = meeting.generation;
  meeting.arrived++;
  if (!complete(meeting)) wait(what, meeting.generation, ~0, generation);
}
inline void leave(Meeting& meeting) {
  meeting.expected--;
  complete(meeting);
}
inline void enter() {
  body();
  current->done = true;
  current->block->alive--;
  leave(current->block->meeting);
  leave(cluster_meeting);
  yield();
}

// An address in shared memory: an offset, and above it one more than the rank of the block meant.
// Shared memory begins where a block's own does on a GPU; beyond its end is what must stay NaN.
constexpr int RANK = 20, BEGIN = 1024, GUARD = 4096;
inline char* memory() { return current->block->shared.data() + BEGIN; }
inline char* shared(uint32_t address, int bytes = 16, Block* block = nullptr) {
  uint32_t rank = address >> RANK, offset = address & ((1u << RANK) - 1);
  if (rank) {
    block = &cluster[rank - 1];
    if (!block->alive) fail("shared memory of a block that has ended is accessed");
  } else if (!block) {
    block = current->block;
  }
  if (offset < BEGIN || offset + bytes > uint32_t(BEGIN + block->bytes))
    fail(std::to_string(int(offset) - BEGIN) + " is no address in shared memory");
  if (offset % min(bytes, 16)) fail(std::to_string(offset) + " is not aligned");
  return block->shared.data() + offset;
}

inline void prepare(int first, int cluster_size, int threads, int resident, int shared_bytes) {
  cluster.clear();
  cluster.resize(cluster_size);
  cluster_meeting = {cluster_size * threads, 0, 0};
  late.clear();
  for (int rank = 0; rank < cluster_size; rank++) {
    Block& block = cluster[rank];
    block.index = first + rank;
    block.rank = rank;
    block.alive = threads;
    block.bytes = shared_bytes;
    block.shared.assign(BEGIN + shared_bytes + GUARD, char(0xff));
    block.meeting.expected = threads;
    block.warps.resize(threads / 32);
    block.warpgroups.resize((threads + 127) / 128);
    block.threads.resize(threads);
    for (int i = 0; i < threads; i++) {
      Thread& thread = block.threads[i];
      thread.index = i;
      thread.block = &block;
      thread.warp = &block.warps[i / 32];
      thread.warp->meeting.expected = 32;
      thread.hopper.registers = min(65536 / resident / threads / 8 * 8, 255);
    }
  }
}

inline std::map<int, std::unique_ptr<char[]>> stacks;
// Starts the thread or goes on with it, until it waits.
inline void resume(Thread& thread) {
  constexpr int STACK = 128 << 10;
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

[[noreturn]] inline void deadlock() {
  std::map<std::string, int> waiting;
  for (Block& block : cluster)
    for (Thread& thread : block.threads)
      if (!thread.done) waiting[thread.what]++;
  std::string why = "deadlock:";
  for (auto& [what, count] : waiting) why += " " + std::to_string(count) + " wait for " + what + ",";
  why.pop_back();
  fail(why);
}

inline void run_cluster() {
  static uint32_t random = 1;
  for (bool running = true; running;) {
    running = false;
    bool waiting = true;
    for (Block& block : cluster)
      for (Thread& thread : block.threads) {
        if (thread.done) continue;
        running = true;
        if (thread.watched && (*thread.watched & thread.bits) == thread.value) continue;
        waiting = false;
        resume(thread);
      }
    if (!running || !waiting) continue;
    if (late.empty()) deadlock();
    random = random * 1664525 + 1013904223;
    // Mostly what was begun last, so that what nobody waits for is late indeed.
    size_t any = random >> 8, chosen = any & 3 ? late.size() - 1 : (any >> 2) % late.size();
    auto next = late.begin() + chosen;
    auto happens = std::move(*next);
    late.erase(next);
    happens();
  }
  if (!late.empty()) fail("a block ends before what it has started");
  for (Block& block : cluster)
    for (int i = 0; i < BEGIN + block.bytes + GUARD; i++)
      if ((i < BEGIN || i >= BEGIN + block.bytes) && block.shared[i] != char(0xff))
        fail("something was written beside shared memory");
}

// What went wrong, or null.
inline const char* run(int grid, int cluster_size, int threads, int resident, int shared_bytes) {
  if (_setjmp(abandon)) return failure.c_str();
  failure.clear();
  for (int first = 0; first < grid; first += cluster_size) {
    prepare(first, cluster_size, threads, resident, shared_bytes);
    run_cluster();
  }
  stacks.clear();
  return nullptr;
}

struct Index {
  int x;
};

}  // namespace on_cpu

#define threadIdx (on_cpu::Index{on_cpu::current->index})
#define blockIdx (on_cpu::Index{on_cpu::current->block->index})

inline void __syncthreads() { on_cpu::meet(on_cpu::current->block->meeting, "all of the block"); }
inline void tvm_builtin_cuda_cluster_sync() { on_cpu::meet(on_cpu::cluster_meeting, "all of the cluster"); }
inline uint tvm_builtin_cluster_ctaid_x() { return on_cpu::current->block->rank; }

inline int __shfl_sync(uint, int value, int lane, int = 32) {
  on_cpu::Thread& me = *on_cpu::current;
  me.warp->words[me.index % 32][0] = value;
  on_cpu::meet(me.warp->meeting);
  value = me.warp->words[lane][0];
  on_cpu::meet(me.warp->meeting);
  return value;
}
inline float __shfl_xor_sync(uint, float value, int mask, int = 32) {
  on_cpu::Thread& me = *on_cpu::current;
  int lane = me.index % 32;
  memcpy(&me.warp->words[lane][0], &value, 4);
  on_cpu::meet(me.warp->meeting);
  memcpy(&value, &me.warp->words[lane ^ mask][0], 4);
  on_cpu::meet(me.warp->meeting);
  return value;
}

inline uint tvm_builtin_cuda_cvta_generic_to_shared(void* pointer) {
  return static_cast<char*>(pointer) - on_cpu::memory() + on_cpu::BEGIN;
}

inline void copy_16_bytes(uint32_t to, const void* from, bool zero) {
  static const half zeros[8] = {};
  auto target = reinterpret_cast<half*>(on_cpu::shared(to));
  on_cpu::current->open.push_back({target, zero ? zeros : static_cast<const half*>(from)});
}
inline void tvm_builtin_ptx_cp_async_cg_async_cg_shared_global_L2__128B_16(uint32_t to, const void* from) {
  copy_16_bytes(to, from, false);
}
inline void tvm_builtin_ptx_cp_async_cg_ignore_src_async_cg_shared_global_L2__128B_16(
    uint32_t to, const void* from, uint32_t zero) {
  copy_16_bytes(to, from, zero);
}
inline void tvm_builtin_ptx_cp_async_commit_group_async_commit_group() {
  on_cpu::current->groups.push_back(std::move(on_cpu::current->open));
  on_cpu::current->open.clear();
}
template <int LEFT>
inline void wait_group() {
  auto& groups = on_cpu::current->groups;
  for (; groups.size() > LEFT; groups.pop_front())
    for (const on_cpu::Copy& copy : groups.front()) memcpy(copy.to, copy.from, 16);
}
#define tvm_builtin_ptx_cp_async_wait_group_async_wait_group_0 wait_group<0>
#define tvm_builtin_ptx_cp_async_wait_group_async_wait_group_1 wait_group<1>
#define tvm_builtin_ptx_cp_async_wait_group_async_wait_group_2 wait_group<2>
#define tvm_builtin_ptx_cp_async_wait_group_async_wait_group_3 wait_group<3>
#define tvm_builtin_ptx_cp_async_wait_group_async_wait_group_4 wait_group<4>
#define tvm_builtin_ptx_cp_async_wait_group_async_wait_group_5 wait_group<5>
#define tvm_builtin_ptx_cp_async_wait_group_async_wait_group_6 wait_group<6>

// Four 8x8 matrices of halves, whose rows the lanes point at, eight each. Lane l gets of each the
// two at (l / 4, 2 * (l % 4)); turned round, the two below each other at (2 * (l % 4), l / 4).
inline void ldmatrix(uint32_t* out[4], uint32_t address, bool turned) {
  on_cpu::Thread& me = *on_cpu::current;
  int lane = me.index % 32;
  me.warp->words[lane][0] = address;
  on_cpu::meet(me.warp->meeting);
  for (int matrix = 0; matrix < 4; matrix++) {
    half pair[2];
    for (int e = 0; e < 2; e++) {
      int row = turned ? lane % 4 * 2 + e : lane / 4;
      int column = turned ? lane / 4 : lane % 4 * 2 + e;
      uint32_t at = me.warp->words[matrix * 8 + row][0];
      pair[e] = reinterpret_cast<half*>(on_cpu::shared(at))[column];
    }
    memcpy(out[matrix], pair, 4);
  }
  on_cpu::meet(me.warp->meeting);
}
inline void tvm_builtin_ptx_ldmatrix_sync_aligned_m8n8_x4_shared_b16(
    uint32_t& r0, uint32_t& r1, uint32_t& r2, uint32_t& r3, uint32_t address) {
  uint32_t* out[] = {&r0, &r1, &r2, &r3};
  ldmatrix(out, address, false);
}
inline void tvm_builtin_ptx_ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16(
    uint32_t& r0, uint32_t& r1, uint32_t& r2, uint32_t& r3, uint32_t address) {
  uint32_t* out[] = {&r0, &r1, &r2, &r3};
  ldmatrix(out, address, true);
}

// Element i of a lane's operands, as the PTX ISA's figures of m16n8k16 have them.
inline void tvm_builtin_ptx_mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32(
    float& d0, float& d1, float& d2, float& d3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
    uint32_t b0, uint32_t b1, float c0, float c1, float c2, float c3) {
  on_cpu::Thread& me = *on_cpu::current;
  int lane = me.index % 32;
  uint32_t mine[] = {a0, a1, a2, a3, b0, b1};
  memcpy(me.warp->words[lane], mine, sizeof mine);
  on_cpu::meet(me.warp->meeting);
  auto halves = [&](int lane) { return reinterpret_cast<half*>(me.warp->words[lane]); };
  float sums[] = {c0, c1, c2, c3};
  for (int i = 0; i < 4; i++) {
    int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; k++) {
      int a = row % 8 * 4 + k % 8 / 2, b = column * 4 + k % 8 / 2;
      half left = halves(a)[(row / 8 + k / 8 * 2) * 2 + k % 2];
      half right = halves(b)[8 + k / 8 * 2 + k % 2];
      sums[i] += float(left) * float(right);
    }
  }
  on_cpu::meet(me.warp->meeting);
  d0 = sums[0], d1 = sums[1], d2 = sums[2], d3 = sums[3];
}

inline void tvm_builtin_ptx_mapa_u32_shared__cluster_u32(uint32_t& to, uint32_t from, uint32_t rank) {
  to = from | (rank + 1) << on_cpu::RANK;
}
inline void load_four_floats(float& d0, float& d1, float& d2, float& d3, uint32_t address) {
  auto from = reinterpret_cast<float*>(on_cpu::shared(address));
  d0 = from[0], d1 = from[1], d2 = from[2], d3 = from[3];
}
#define tvm_builtin_ptx_ld_vec_shared_v4_f32 load_four_floats
#define tvm_builtin_ptx_ld_vec_shared__cluster_v4_f32 load_four_floats
#define tvm_builtin_ptx_ld_vec_shared__cluster_v2_f32(d0, d1, address) load_floats(address, d0, d1)
#define tvm_builtin_ptx_ld_shared__cluster_f32(d0, address) load_floats(address, d0)
template <class... Floats>
inline void load_floats(uint32_t address, Floats&... to) {
  auto from = reinterpret_cast<float*>(on_cpu::shared(address, 4 * sizeof...(to)));
  ((to = *from++), ...);
}

#include "hopper_on_cpu.h"
