// Instructions of threads, warps and blocks that every GPU since sm_80 has, but for asynchronous
// ones. Where a lane's elements lie is what the figures of the PTX ISA say.
#pragma once
#include "fibers.h"

namespace emulator {

static Index place(int number, const int (&sizes)[3]) {
  return {number % sizes[0], number / sizes[0] % sizes[1], number / sizes[0] / sizes[1]};
}
Index thread_index() { return place(current->index, launch->threads); }
Index block_index() { return place(current->block->index, launch->blocks); }
int lane_index() { return current->index % WARP; }
char* shared_memory() { return current->block->shared.data() + BEGIN; }
uint32_t shared_address(const void* pointer) {
  return static_cast<const char*>(pointer) - shared_memory() + BEGIN;
}

void sync_block() { arrive_and_wait(current->block->barrier, "all of the block"); }
void sync_warp() {
  int nothing;
  together("__syncwarp", nothing, [](int**) {});
}
void bar_sync(uint32_t number, uint32_t threads) {
  if (number > 15 || threads % WARP) fail("there is no such barrier");
  Barrier& barrier = current->block->named[number];
  if (barrier.arrived && barrier.expected != int(threads))
    fail("threads expect different numbers at one barrier");
  barrier.expected = threads;
  arrive_and_wait(barrier, "a named barrier");
}
void cluster_arrive() {
  current->cluster_generation = cluster_barrier.generation;
  cluster_barrier.arrived++;
  complete(cluster_barrier);
}
void cluster_wait() {
  wait("all of the cluster", cluster_barrier.generation, ~0, current->cluster_generation);
}
uint32_t cluster_rank() { return current->block->rank; }

uint32_t shuffle(uint32_t value, uint32_t lane) {
  struct { uint32_t value, lane, result; } mine{value, lane % WARP, 0};
  together("shfl.sync", mine, [](auto** lanes) {
    for (int i = 0; i < WARP; i++) lanes[i]->result = lanes[lanes[i]->lane]->value;
  });
  return mine.result;
}

void mapa(uint32_t& to, uint32_t address, uint32_t rank) { to = address | (rank + 1) << RANK; }
void load(uint32_t address, int words, uint32_t* to) {
  memcpy(to, shared(address, 4 * words), 4 * words);
}
void store(uint32_t address, int words, const uint32_t* from) {
  memcpy(shared(address, 4 * words), from, 4 * words);
  current->unfenced.push_back(address);
}

// Four 8x8 matrices of 16 bits, whose rows the lanes point at, eight each. Lane l gets of each the
// two elements at (l / 4, 2 * (l % 4)); transposed, those at (2 * (l % 4), l / 4), one below the
// other.
void ldmatrix(bool transposed, uint32_t& r0, uint32_t& r1, uint32_t& r2, uint32_t& r3, uint32_t row) {
  struct { const char* row; uint16_t out[4][2]; } mine{shared(row), {}};
  together(transposed ? "ldmatrix.trans" : "ldmatrix", mine, [=](auto** lanes) {
    for (int matrix = 0; matrix < 4; matrix++)
      for (int lane = 0; lane < WARP; lane++)
        for (int e = 0; e < 2; e++) {
          int row = lane / 4, column = lane % 4 * 2 + e;
          if (transposed) std::swap(row, column);
          memcpy(&lanes[lane]->out[matrix][e], lanes[matrix * 8 + row]->row + 2 * column, 2);
        }
  });
  memcpy(&r0, mine.out[0], 4), memcpy(&r1, mine.out[1], 4);
  memcpy(&r2, mine.out[2], 4), memcpy(&r3, mine.out[3], 4);
}
// The inverse of ldmatrix.
void stmatrix(uint32_t row, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  struct { char* row; uint32_t in[4]; } mine{shared(row), {r0, r1, r2, r3}};
  together("stmatrix", mine, [](auto** lanes) {
    for (int matrix = 0; matrix < 4; matrix++)
      for (int lane = 0; lane < WARP; lane++)
        memcpy(lanes[matrix * 8 + lane / 4]->row + lane % 4 * 4, &lanes[lane]->in[matrix], 4);
  });
  current->unfenced.push_back(row);
}
// Transposes the 8x8 matrix of 16 bits that a warp holds in one register.
void movmatrix(uint32_t& d, uint32_t a) {
  struct { uint16_t in[2], out[2]; } mine;
  memcpy(mine.in, &a, 4);
  together("movmatrix", mine, [](auto** lanes) {
    for (int lane = 0; lane < WARP; lane++)
      for (int e = 0; e < 2; e++) {
        int row = lane % 4 * 2 + e, column = lane / 4;
        lanes[lane]->out[e] = lanes[row * 4 + column / 2]->in[column % 2];
      }
  });
  memcpy(&d, mine.out, 4);
}
template <class Element>
void max_of_pairs(uint32_t& d, uint32_t a, uint32_t b) {
  Element left[2], right[2];
  memcpy(left, &a, 4), memcpy(right, &b, 4);
  for (int i = 0; i < 2; i++) left[i] = max(left[i], right[i]);
  memcpy(&d, left, 4);
}
template void max_of_pairs<half>(uint32_t&, uint32_t, uint32_t);
template <class Element>
void product_of_pairs(uint32_t& d, uint32_t a, uint32_t b) {
  Element left[2], right[2];
  memcpy(left, &a, 4), memcpy(right, &b, 4);
  for (int i = 0; i < 2; i++) left[i] = Element(float(left[i]) * float(right[i]));
  memcpy(&d, left, 4);
}
template void product_of_pairs<half>(uint32_t&, uint32_t, uint32_t);
template void product_of_pairs<nv_bfloat16>(uint32_t&, uint32_t, uint32_t);

// mma.sync m16n8, whose k is 8 registers of elements: for elements of 16 bits, m16n8k16. Register i
// of the first operand is row l / 4 + i % 2 * 8 of lane l, words l % 4 + i / 2 * 4 of that row; the
// second's columns are as its rows; accumulator i is (l / 4 + i / 2 * 8, l % 4 * 2 + i % 2).
template <class Accumulator>
struct Operands {
  uint32_t a[4], b[2];
  Accumulator c[4];
};
template <class A, class B, class Accumulator>
static void multiply_warp(Operands<Accumulator>** lanes) {
  static_assert(sizeof(A) == sizeof(B));
  constexpr int EACH = 4 / sizeof(A), K = 8 * EACH;
  A left[EACH];
  B right[EACH];
  Accumulator a[16][K], b[K][8], c[16][8];
  for (int lane = 0; lane < WARP; lane++) {
    int row = lane / 4, word = lane % 4;
    for (int i = 0; i < 4; i++) {
      memcpy(left, &lanes[lane]->a[i], 4);
      for (int e = 0; e < EACH; e++)
        a[row + i % 2 * 8][(word + i / 2 * 4) * EACH + e] = Accumulator(left[e]);
      c[row + i / 2 * 8][word * 2 + i % 2] = lanes[lane]->c[i];
    }
    for (int i = 0; i < 2; i++) {
      memcpy(right, &lanes[lane]->b[i], 4);
      for (int e = 0; e < EACH; e++) b[(word + i * 4) * EACH + e][row] = Accumulator(right[e]);
    }
  }
  for (int row = 0; row < 16; row++)
    for (int k = 0; k < K; k++)
      for (int column = 0; column < 8; column++) c[row][column] += a[row][k] * b[k][column];
  for (int lane = 0; lane < WARP; lane++)
    for (int i = 0; i < 4; i++) lanes[lane]->c[i] = c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}
template <class A, class B, class Accumulator, class Register>
void mma_sync(Register& d0, Register& d1, Register& d2, Register& d3, uint32_t a0, uint32_t a1,
              uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1, Register c0, Register c1,
              Register c2, Register c3) {
  static_assert(sizeof(Register) == sizeof(Accumulator));
  Register bits[4]{c0, c1, c2, c3};
  Operands<Accumulator> mine{{a0, a1, a2, a3}, {b0, b1}, {}};
  memcpy(mine.c, bits, sizeof bits);
  together("mma.sync", mine, multiply_warp<A, B, Accumulator>);
  memcpy(bits, mine.c, sizeof bits);
  d0 = bits[0], d1 = bits[1], d2 = bits[2], d3 = bits[3];
}
#define INSTANCE(A, B, Accumulator, Register)                                                \
  template void mma_sync<A, B, Accumulator, Register>(                                       \
      Register&, Register&, Register&, Register&, uint32_t, uint32_t, uint32_t, uint32_t,    \
      uint32_t, uint32_t, Register, Register, Register, Register);
INSTANCE(half, half, float, float)
INSTANCE(nv_bfloat16, nv_bfloat16, float, float)
INSTANCE(int8_t, int8_t, int32_t, uint32_t)
INSTANCE(uint8_t, int8_t, int32_t, uint32_t)
#undef INSTANCE

}  // namespace emulator
