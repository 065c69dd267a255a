// What sm_90a has beside: the copy engine, mbarriers, products of a warpgroup, and registers that
// are handed on.
//
// Everything asynchronous is as late as it may be: a copy's target holds NaN until it lands, a
// product reads its operands when it is waited for, a store reads its source then too. So what is
// read before it is waited for, or overwritten before it has been read, shows in the result.
#pragma once
#include <utility>

#include "fibers.h"

namespace emulator {

// A tensor map: (channels, pixels) of a matrix, or (C, W, H, N) walked as by a convolution. As
// `tensor_maps.Map`.
struct TensorMap {
  bool im2col;
  int element_bytes;
  const char* data;
  int sizes[4];
  int64_t strides[4];
  int lower[2], upper[2];  // W, H
  int channels, pixels, steps[2], swizzle;

  int bytes() const { return channels * pixels * element_bytes; }
};

// Bits 4 to 6 of an address, as many as a row of `bytes` has, are exclusive-ored with 7 to 9.
static uint32_t swizzled(uint32_t address, int bytes) {
  return address ^ (address >> 7 & (bytes / 16 - 1)) << 4;
}

static Mbarrier& mbarrier(Block& block, uint32_t address) {
  auto found = block.mbarriers.find(address);
  if (found == block.mbarriers.end()) fail("a barrier is used before it is initialised");
  return found->second;
}
static void settle(Mbarrier& barrier) {
  if (barrier.pending || barrier.bytes) return;
  barrier.pending = barrier.count;
  barrier.phase++;
}
static void arrive(uint32_t address, int count, int bytes) {
  Mbarrier& barrier = mbarrier(*current->block, address);
  barrier.bytes += bytes;
  barrier.pending -= count;
  if (barrier.pending < 0) fail("more arrive at a barrier than it was initialised for");
  settle(barrier);
}
void mbarrier_init(uint32_t address, uint32_t count) {
  shared(address, 8);
  if (!current->block->mbarriers.insert({address, {int(count), int(count), 0, 0}}).second)
    fail("a barrier is initialised twice");
}
void mbarrier_arrive(uint32_t address, uint32_t count) { arrive(address, count, 0); }
void mbarrier_arrive_expect_tx(uint32_t address, uint32_t bytes) { arrive(address, 1, bytes); }
// Waits until the phase of this parity is over.
void mbarrier_wait(uint32_t address, int parity) {
  wait("an mbarrier", mbarrier(*current->block, address).phase, 1, parity);
}

// The target is unusable from now on; later `write` fills it and so many bytes have landed.
static void copy_to(uint32_t to, int bytes, uint32_t barrier, std::function<void(Block&)> write) {
  Block* block = current->block;
  memset(shared(to, bytes), 0xff, bytes);
  mbarrier(*block, barrier);
  late.push_back([=] {
    write(*block);
    Mbarrier& full = mbarrier(*block, barrier);
    full.bytes -= bytes;
    if (full.bytes < 0) fail("more bytes arrive than a barrier expects");
    settle(full);
  });
}
void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  if (uintptr_t(from) % 16 || bytes % 16 || !bytes) fail("a bulk copy is not aligned");
  copy_to(to, bytes, barrier,
          [=](Block& block) { memcpy(shared(to, bytes, &block), from, bytes); });
}

// Where the row of a box begins that is its `i`-th pixel, null where the tensor has none.
static const char* pixel(const TensorMap& map, const int (&at)[4], const int (&offsets)[2], int i) {
  if (!map.im2col) {
    int row = at[1] + i;
    return row < 0 || row >= map.sizes[1] ? nullptr : map.data + row * map.strides[1];
  }
  int place[3] = {at[1], at[2], at[3]};
  for (int walked = 0; walked < i; walked++)
    for (int axis = 0; axis < 3; axis++) {
      if (axis == 2) {
        place[2]++;
      } else if ((place[axis] += map.steps[axis]) > map.sizes[axis + 1] - 1 + map.upper[axis]) {
        place[axis] = map.lower[axis];
        continue;
      }
      break;
    }
  const char* row = map.data;
  for (int axis = 0; axis < 3; axis++) {
    int shifted = place[axis] + (axis < 2 ? offsets[axis] : 0);
    if (shifted < 0 || shifted >= map.sizes[axis + 1]) return nullptr;
    row += shifted * map.strides[axis + 1];
  }
  return row;
}
// (first, behind) of a row's channels that the tensor has, of those from `at` on.
static std::pair<int, int> channels(const TensorMap& map, int at) {
  return {std::max(0, -at), std::min(map.channels, map.sizes[0] - at)};
}
void load_box(uint32_t to, const TensorMap& map, const int (&coordinates)[4], uint32_t barrier,
              const int (&offsets)[2]) {
  struct { int at[4], offsets[2]; } box;
  memcpy(box.at, coordinates, sizeof box.at), memcpy(box.offsets, offsets, sizeof box.offsets);
  if (to % 128) fail("the copy engine writes where it is not aligned");
  copy_to(to, map.bytes(), barrier, [=, &map](Block& block) {
    int bytes = map.element_bytes, row_bytes = map.channels * bytes;
    std::vector<char> row(row_bytes);
    for (int i = 0; i < map.pixels; i++) {
      std::fill(row.begin(), row.end(), 0);
      auto [first, behind] = channels(map, box.at[0]);
      const char* from = pixel(map, box.at, box.offsets, i);
      if (from && behind > first)
        memcpy(&row[bytes * first], from + bytes * (box.at[0] + first), bytes * (behind - first));
      for (int chunk = 0; chunk < row_bytes; chunk += 16) {
        uint32_t address = swizzled(to + i * row_bytes + chunk, map.swizzle);
        memcpy(shared(address, 16, &block), &row[chunk], 16);
      }
    }
  });
}
void store_tile(const void* given, int c, int m, uint32_t from) {
  const TensorMap& map = *static_cast<const TensorMap*>(given);
  if (from % 128) fail("the copy engine reads where it is not aligned");
  Thread& me = *current;
  for (Thread& other : me.block->threads)
    for (uint32_t written : other.unfenced)
      if (from <= written && written < from + map.bytes())
        fail("the copy engine reads what no fence has shown it");
  me.stores.push_back([=, &map, block = me.block] {
    int bytes = map.element_bytes;
    for (int i = 0; i < map.pixels; i++) {
      int at[4] = {c, m};
      auto to = const_cast<char*>(pixel(map, at, {}, i));
      auto [first, behind] = channels(map, c);
      for (int channel = first; to && channel < behind; channel++) {
        uint32_t place = from + bytes * (i * map.channels + channel);
        uint32_t address = swizzled(place & ~15u, map.swizzle);
        memcpy(to + bytes * (c + channel), shared(address, 16, block) + place % 16, bytes);
      }
    }
  });
}
void bulk_commit() {
  current->store_groups.push_back(std::move(current->stores));
  current->stores.clear();
}
void bulk_wait(int left) {
  Thread& me = *current;
  if (me.store_groups.size() <= size_t(left)) return;
  late.push_back([&me, left] {
    for (; me.store_groups.size() > size_t(left); me.store_groups.pop_front())
      for (auto& make : me.store_groups.front()) make();
    me.stores_made++;
  });
  wait("stores to have read", me.stores_made, ~0, int(me.stores_made));
}
void fence_proxy() { current->unfenced.clear(); }

// -- products of a warpgroup: a (64 x k) times b (k x columns), k being 32 bytes of elements

// (row, k) of an operand, read through its descriptor.
template <class Element>
static Element operand(Block& block, uint64_t descriptor, int row, int k) {
  static const int ROW_BYTES[] = {0, 128, 64, 32};
  int row_bytes = ROW_BYTES[descriptor >> 62];
  if (!row_bytes || descriptor >> 49 & 7) fail("a descriptor of another layout");
  uint32_t start = (descriptor & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
  if ((start & ~(row_bytes - 1u)) % (8 * row_bytes)) fail("an operand begins within a swizzle");
  uint32_t at = start + row / 8 * stride + row % 8 * row_bytes + sizeof(Element) * k;
  Element element;
  memcpy(&element, shared(swizzled(at & ~15u, row_bytes), 16, &block) + at % 16, sizeof element);
  return element;
}
// The figure of accumulator matrix D: what a thread of the warpgroup holds in register i.
static int accumulator_row(int thread, int i) {
  return thread / 32 * 16 + i / 2 % 2 * 8 + thread % 32 / 4;
}
static int accumulator_column(int thread, int i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

template <class A, class B, class Accumulator>
static void multiply_warpgroup(Block& block, Thread* threads, int number) {
  constexpr int K = 32 / sizeof(A);
  static Accumulator a[64][K], b[K][256], c[64][256];
  const Product product = threads[0].product_groups.front()[number];
  int columns = product.columns;
  for (int k = 0; k < K; k++) {
    for (int row = 0; row < 64; row++) a[row][k] = operand<A>(block, product.a, row, k);
    for (int column = 0; column < columns; column++)
      b[k][column] = operand<B>(block, product.b, column, k);
  }
  for (int thread = 0; thread < WARPGROUP; thread++) {
    const Product& own = threads[thread].product_groups.front()[number];
    if (own.a != product.a || own.b != product.b || own.add != product.add)
      fail("threads of a warpgroup multiply different matrices");
    for (int i = 0; i < columns / 2; i++)
      c[accumulator_row(thread, i)][accumulator_column(thread, i)] =
          own.add ? static_cast<Accumulator*>(own.accumulators)[i] : 0;
  }
  for (int row = 0; row < 64; row++)
    for (int k = 0; k < K; k++)
      for (int column = 0; column < columns; column++) c[row][column] += a[row][k] * b[k][column];
  for (int thread = 0; thread < WARPGROUP; thread++) {
    const Product& own = threads[thread].product_groups.front()[number];
    for (int i = 0; i < columns / 2; i++)
      static_cast<Accumulator*>(own.accumulators)[i] =
          c[accumulator_row(thread, i)][accumulator_column(thread, i)];
  }
}
template <class A, class B, class Accumulator, class Register>
void wgmma(int columns, Register* first, Register* last, uint64_t a, uint64_t b, bool add) {
  if (last != first + columns / 2 - 1) fail("accumulators do not lie side by side");
  if (!current->fenced) fail("registers are multiplied into before a fence");
  uint32_t start = (a & 0x3fff) << 4, end = start + 8 * ((a >> 32 & 0x3fff) << 4);
  Thread* threads = &current->block->threads[current->index / WARPGROUP * WARPGROUP];
  for (int i = 0; i < WARPGROUP; i++)
    for (uint32_t written : threads[i].unfenced)
      if (start <= written && written < end) fail("a product reads what no fence has shown it");
  current->products.push_back({multiply_warpgroup<A, B, Accumulator>, first, columns, a, b, add});
}
#define INSTANCE(A, B, Accumulator, Register) \
  template void wgmma<A, B, Accumulator>(int, Register*, Register*, uint64_t, uint64_t, bool);
INSTANCE(half, half, float, float)
INSTANCE(nv_bfloat16, nv_bfloat16, float, float)
INSTANCE(int8_t, int8_t, int32_t, uint32_t)
INSTANCE(uint8_t, int8_t, int32_t, uint32_t)
#undef INSTANCE

void wgmma_fence() { current->fenced = true; }
void wgmma_commit() {
  current->product_groups.push_back(std::move(current->products));
  current->products.clear();
}
void wgmma_wait(int left) {
  Thread& me = *current;
  me.fenced = false;
  if (me.product_groups.size() <= size_t(left)) return;
  Warpgroup& group = me.block->warpgroups[me.index / WARPGROUP];
  int generation = group.generation;
  if (++group.arrived == WARPGROUP) {
    Thread* threads = &me.block->threads[me.index / WARPGROUP * WARPGROUP];
    late.push_back([=, &group, block = me.block] {
      while (threads[0].product_groups.size() > size_t(left)) {
        for (size_t i = 0; i < threads[0].product_groups.front().size(); i++)
          threads[0].product_groups.front()[i].multiply(*block, threads, i);
        for (int i = 0; i < WARPGROUP; i++) threads[i].product_groups.pop_front();
      }
      group.arrived = 0;
      group.generation++;
    });
  }
  wait("products of the warpgroup", group.generation, ~0, generation);
}

// A block's registers: those that no thread has can be asked for.
void setmaxnreg(bool more, int wanted) {
  Thread& me = *current;
  Block& block = *me.block;
  int change = wanted - me.registers;
  if (more != (change > 0) && change) fail("setmaxnreg in the wrong direction");
  while (change > block.free_registers) wait("registers", block.freed, ~0, int(block.freed));
  block.free_registers -= change;
  block.freed++;
  me.registers = wanted;
}

}  // namespace emulator
