// What the CUDA text of a kernel of instructions needs to run on a CPU: its threads are fibers that
// take turns, and what a warp, a block or a cluster does together waits until all have arrived.
// Copies marked asynchronous are made no sooner than they are waited for, so that a missing wait
// shows; before that, shared memory holds NaN.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

typedef _Float16 half;
typedef unsigned int uint;
struct half4 { half x, y, z, w; };
struct uint2 { uint x, y; };
struct uint4 { uint x, y, z, w; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
#define __global__
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

struct Block;
struct Warp {
  Meeting meeting;
  uint32_t words[32][8];
};
struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  int index;
  Block* block;
  Warp* warp;
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> open;
  bool done = false;
};
struct Block {
  int index, rank;
  std::vector<char> shared;
  Meeting meeting;
  std::vector<Warp> warps;
  std::vector<Thread> threads;
};

inline ucontext_t scheduler;
inline Thread* current;
inline std::vector<Block> cluster;
inline Meeting cluster_meeting;
inline void (*body)();

inline void yield() { swapcontext(&current->context, &scheduler); }
inline void meet(Meeting& meeting) {
  int generation = meeting.generation;
  if (++meeting.arrived == meeting.expected) {
    meeting.arrived = 0;
    meeting.generation++;
  }
  while (meeting.generation == generation) yield();
}
inline void enter() {
  body();
  current->done = true;
  yield();
}

// An address in shared memory: an offset, and above it one more than the rank of the block meant.
constexpr int RANK = 20;
inline char* shared(uint32_t address) {
  uint32_t rank = address >> RANK;
  Block& block = rank ? cluster[rank - 1] : *current->block;
  return block.shared.data() + (address & ((1u << RANK) - 1));
}

inline void run(int grid, int cluster_size, int threads, int shared_bytes) {
  for (int first = 0; first < grid; first += cluster_size) {
    cluster.clear();
    cluster.resize(cluster_size);
    cluster_meeting = {cluster_size * threads, 0, 0};
    for (int rank = 0; rank < cluster_size; rank++) {
      Block& block = cluster[rank];
      block.index = first + rank;
      block.rank = rank;
      block.shared.assign(shared_bytes, char(0xff));
      block.meeting.expected = threads;
      block.warps.resize(threads / 32);
      block.threads.resize(threads);
      for (int i = 0; i < threads; i++) {
        Thread& thread = block.threads[i];
        thread.index = i;
        thread.block = &block;
        thread.warp = &block.warps[i / 32];
        thread.warp->meeting.expected = 32;
        constexpr int STACK = 128 << 10;
        thread.stack.reset(new char[STACK]);
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.get();
        thread.context.uc_stack.ss_size = STACK;
        makecontext(&thread.context, enter, 0);
      }
    }
    for (bool running = true; running;) {
      running = false;
      for (Block& block : cluster)
        for (Thread& thread : block.threads)
          if (!thread.done) {
            running = true;
            current = &thread;
            swapcontext(&scheduler, &thread.context);
          }
    }
  }
}

struct Index {
  int x;
};

}  // namespace on_cpu

#define threadIdx (on_cpu::Index{on_cpu::current->index})
#define blockIdx (on_cpu::Index{on_cpu::current->block->index})

inline void __syncthreads() { on_cpu::meet(on_cpu::current->block->meeting); }
inline void tvm_builtin_cuda_cluster_sync() { on_cpu::meet(on_cpu::cluster_meeting); }
inline uint tvm_builtin_cluster_ctaid_x() { return on_cpu::current->block->rank; }

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
  return static_cast<char*>(pointer) - on_cpu::current->block->shared.data();
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
