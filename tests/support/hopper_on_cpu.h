// What sm_90a has beside: the copy engine, barriers that count bytes, products of a warpgroup, and
// registers that are handed on.
//
// Everything asynchronous is as late as it may be: a copy's target holds NaN until it lands, a
// product reads its operands when it is waited for, a store reads its source then too. So what is
// read before it is waited for, or overwritten before it has been read, shows in the result.
#pragma once

namespace on_cpu {

// A tensor map: (channels, pixels) of a matrix, or (C, W, H, N) walked as by a convolution.
struct Map {
  bool im2col;
  const char* data;
  int sizes[4];
  int64_t strides[4];
  int lower[2], upper[2];  // W, H
  int channels, pixels, steps[2], swizzle;
};

// Bits 4 to 6 of an address, as many as a row of `bytes` has, are exclusive-ored with 7 to 9.
inline uint32_t swizzled(uint32_t address, int bytes) {
  return address ^ (address >> 7 & (bytes / 16 - 1)) << 4;
}

inline Mbarrier& mbarrier(Block& block, uint32_t address) {
  auto found = block.mbarriers.find(address);
  if (found == block.mbarriers.end()) fail("a barrier is used before it is initialised");
  return found->second;
}
inline void settle(Mbarrier& barrier) {
  if (barrier.pending || barrier.bytes) return;
  barrier.pending = barrier.count;
  barrier.phase++;
}
inline void arrive(uint32_t address, int count, int bytes) {
  Mbarrier& barrier = mbarrier(*current->block, address);
  barrier.bytes += bytes;
  barrier.pending -= count;
  if (barrier.pending < 0) fail("more arrive at a barrier than it was initialised for");
  settle(barrier);
}
// The target is unusable from now on; later `write` fills it and so many bytes have landed.
inline void copy_to(uint32_t to, int bytes, uint32_t barrier, std::function<void(Block&)> write) {
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

// Where the row of a box begins that is its `i`-th pixel, null where the tensor has none.
inline const char* pixel(const Map& map, const int (&at)[4], const int (&offsets)[2], int i) {
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
inline std::pair<int, int> channels(const Map& map, int at) {
  return {max(0, -at), min(map.channels, map.sizes[0] - at)};
}
inline void load(const Map& map, uint32_t to, std::vector<int> coordinates, uint32_t barrier,
                 int right = 0, int down = 0) {
  if (to % 128) fail("the copy engine writes where it is not aligned");
  coordinates.resize(4);
  copy_to(to, map.channels * map.pixels * 2, barrier, [=](Block& block) {
    int at[4], offsets[2] = {right, down};
    std::copy(coordinates.begin(), coordinates.end(), at);
    for (int i = 0; i < map.pixels; i++) {
      std::vector<half> row(map.channels, 0);
      auto [first, behind] = channels(map, at[0]);
      const char* from = pixel(map, at, offsets, i);
      if (from && behind > first)
        memcpy(&row[first], from + 2 * (at[0] + first), 2 * (behind - first));
      for (int c = 0; c < map.channels; c += 8) {
        uint32_t address = swizzled(to + 2 * (i * map.channels + c), map.swizzle);
        memcpy(shared(address, 16, &block), &row[c], 16);
      }
    }
  });
}
inline void store(const Map& map, int c, int m, uint32_t from) {
  if (from % 128) fail("the copy engine reads where it is not aligned");
  Thread& me = *current;
  uint32_t end = from + 2 * map.channels * map.pixels;
  for (Thread& other : me.block->threads)
    for (uint32_t written : other.hopper.unfenced)
      if (from <= written && written < end) fail("the copy engine reads what no fence has shown it");
  me.hopper.stores.push_back([=, block = me.block] {
    for (int i = 0; i < map.pixels; i++) {
      int at[4] = {c, m};
      auto to = const_cast<char*>(pixel(map, at, {}, i));
      auto [first, behind] = channels(map, c);
      for (int channel = first; to && channel < behind; channel++) {
        uint32_t place = from + 2 * (i * map.channels + channel);
        uint32_t address = swizzled(place & ~15u, map.swizzle);
        memcpy(to + 2 * (c + channel), shared(address, 16, block) + place % 16, 2);
      }
    }
  });
}
inline void wait_for_stores(size_t left) {
  Hopper& mine = current->hopper;
  if (mine.store_groups.size() <= left) return;
  late.push_back([&mine, left] {
    for (; mine.store_groups.size() > left; mine.store_groups.pop_front())
      for (auto& make : mine.store_groups.front()) make();
    mine.stores_made++;
  });
  wait("stores to have read", mine.stores_made, ~0, int(mine.stores_made));
}

// (row, k) of an operand, read through its descriptor.
inline float operand(Block& block, uint64_t descriptor, int row, int k) {
  static const int ROW_BYTES[] = {0, 128, 64, 32};
  int row_bytes = ROW_BYTES[descriptor >> 62];
  if (!row_bytes || descriptor >> 49 & 7) fail("a descriptor of another layout");
  uint32_t start = (descriptor & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
  if ((start & ~(row_bytes - 1u)) % (8 * row_bytes)) fail("an operand begins within a swizzle");
  uint32_t at = start + row / 8 * stride + row % 8 * row_bytes + 2 * k;
  return reinterpret_cast<half*>(shared(swizzled(at & ~15u, row_bytes), 16, &block))[at % 16 / 2];
}
// The figure of accumulator matrix D: what a thread of the warpgroup holds in a register.
inline int sum_row(int thread, int i) { return thread / 32 * 16 + i / 2 % 2 * 8 + thread % 32 / 4; }
inline int sum_column(int thread, int i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

__attribute__((optimize("O3"))) inline void multiply(Block& block, Thread* threads, int number) {
  static float a[64][16], b[16][256], sums[64][256];
  const Product product = threads[0].hopper.groups.front()[number];
  int columns = product.columns;
  for (int k = 0; k < 16; k++) {
    for (int row = 0; row < 64; row++) a[row][k] = operand(block, product.a, row, k);
    for (int column = 0; column < columns; column++)
      b[k][column] = operand(block, product.b, column, k);
  }
  for (int thread = 0; thread < 128; thread++) {
    const Product& own = threads[thread].hopper.groups.front()[number];
    if (own.a != product.a || own.b != product.b || own.add != product.add)
      fail("threads of a warpgroup multiply different matrices");
    for (int i = 0; i < columns / 2; i++)
      sums[sum_row(thread, i)][sum_column(thread, i)] = own.add ? own.sums[i] : 0;
  }
  for (int row = 0; row < 64; row++)
    for (int k = 0; k < 16; k++)
      for (int column = 0; column < columns; column++) sums[row][column] += a[row][k] * b[k][column];
  for (int thread = 0; thread < 128; thread++) {
    const Product& own = threads[thread].hopper.groups.front()[number];
    for (int i = 0; i < columns / 2; i++)
      own.sums[i] = sums[sum_row(thread, i)][sum_column(thread, i)];
  }
}
inline void wait_for_products(size_t left) {
  Thread& me = *current;
  me.hopper.fenced = false;
  if (me.hopper.groups.size() <= left) return;
  Warpgroup& group = me.block->warpgroups[me.index / 128];
  int generation = group.generation;
  if (++group.arrived == 128) {
    Thread* threads = &me.block->threads[me.index / 128 * 128];
    late.push_back([=, &group, block = me.block] {
      while (threads[0].hopper.groups.size() > left) {
        for (size_t i = 0; i < threads[0].hopper.groups.front().size(); i++)
          multiply(*block, threads, i);
        for (int i = 0; i < 128; i++) threads[i].hopper.groups.pop_front();
      }
      group.arrived = 0;
      group.generation++;
    });
  }
  wait("products of the warpgroup", group.generation, ~0, generation);
}
inline void wgmma(int columns, float* first, float* last, uint64_t a, uint64_t b, bool add) {
  if (last != first + columns / 2 - 1) fail("sums do not lie side by side");
  if (!current->hopper.fenced) fail("registers are multiplied into before a fence");
  current->hopper.open.push_back({first, columns, a, b, add});
}

// A block's registers: those that nobody has can be asked for.
inline void take_registers(int wanted, bool more) {
  Thread& me = *current;
  Block& block = *me.block;
  int change = wanted - me.hopper.registers;
  if (more != (change > 0) && change) fail("setmaxnreg in the wrong direction");
  while (change > block.free_registers) wait("registers", block.freed, ~0, int(block.freed));
  block.free_registers -= change;
  block.freed++;
  me.hopper.registers = wanted;
}

}  // namespace on_cpu

typedef on_cpu::Map CUtensorMap;

inline void tvm_builtin_ptx_mbarrier_init_init_shared_b64(uint32_t address, uint32_t count) {
  on_cpu::shared(address, 8);
  auto& barriers = on_cpu::current->block->mbarriers;
  if (!barriers.insert({address, {int(count), int(count), 0, 0}}).second)
    on_cpu::fail("a barrier is initialised twice");
}
inline void tvm_builtin_ptx_mbarrier_arrive_arrive_shared_b64(uint32_t address, uint32_t count) {
  on_cpu::arrive(address, count, 0);
}
inline void tvm_builtin_ptx_mbarrier_arrive_expect_tx_arrive_expect_tx_shared_b64(
    uint32_t address, uint32_t bytes) {
  on_cpu::arrive(address, 1, bytes);
}
// Waits until the phase of this parity is over.
inline void tvm_builtin_cuda_mbarrier_wait(void* barrier, int parity) {
  uint32_t address = tvm_builtin_cuda_cvta_generic_to_shared(barrier);
  on_cpu::wait("an mbarrier", on_cpu::mbarrier(*on_cpu::current->block, address).phase, 1, parity);
}
inline void tvm_builtin_cuda_cta_sync() { __syncthreads(); }
inline void tvm_builtin_ptx_bar_sync_count_sync(uint32_t number, uint32_t count) {
  if (number > 15 || count % 32) on_cpu::fail("there is no such barrier");
  on_cpu::Meeting& meeting = on_cpu::current->block->named[number];
  if (meeting.arrived && meeting.expected != int(count))
    on_cpu::fail("threads expect different numbers at one barrier");
  meeting.expected = count;
  on_cpu::meet(meeting, "a named barrier");
}
inline void tvm_builtin_ptx_barrier_cluster_arrive_cluster_arrive_aligned() {
  on_cpu::current->hopper.cluster_generation = on_cpu::cluster_meeting.generation;
  on_cpu::cluster_meeting.arrived++;
  on_cpu::complete(on_cpu::cluster_meeting);
}
inline void tvm_builtin_ptx_barrier_cluster_wait_cluster_wait_aligned() {
  int generation = on_cpu::current->hopper.cluster_generation;
  on_cpu::wait("all of the cluster", on_cpu::cluster_meeting.generation, ~0, generation);
}

#define tvm_builtin_ptx_cp_async_bulk_tensor_g2s_cluster_im2col_async_bulk_tensor_4d_shared__cluster_global_im2col_mbarrier__complete_tx__bytes( \
    to, map, c, w, h, n, barrier, right, down) \
  on_cpu::load(*(const CUtensorMap*)(map), to, {c, w, h, n}, barrier, right, down)
#define tvm_builtin_ptx_cp_async_bulk_tensor_g2s_cluster_async_bulk_tensor_2d_shared__cluster_global_tile_mbarrier__complete_tx__bytes( \
    to, map, c, m, barrier) \
  on_cpu::load(*(const CUtensorMap*)(map), to, {c, m}, barrier)
#define tvm_builtin_ptx_cp_async_bulk_tensor_s2g_async_bulk_tensor_2d_global_shared__cta_tile_bulk_group( \
    map, c, m, from) \
  on_cpu::store(*(const CUtensorMap*)(map), c, m, from)
inline void tvm_builtin_ptx_cp_async_bulk_g2s_cluster_async_bulk_shared__cluster_global_mbarrier__complete_tx__bytes(
    uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  if (uintptr_t(from) % 16 || bytes % 16 || !bytes) on_cpu::fail("a copy that is not aligned");
  on_cpu::copy_to(to, bytes, barrier, [=](on_cpu::Block& block) {
    memcpy(on_cpu::shared(to, bytes, &block), from, bytes);
  });
}
inline void tvm_builtin_ptx_cp_async_bulk_commit_group_async_bulk_commit_group() {
  on_cpu::Hopper& mine = on_cpu::current->hopper;
  mine.store_groups.push_back(std::move(mine.stores));
  mine.stores.clear();
}
#define tvm_builtin_ptx_cp_async_bulk_wait_group_async_bulk_wait_group_0() on_cpu::wait_for_stores(0)
#define tvm_builtin_ptx_cp_async_bulk_wait_group_async_bulk_wait_group_read_0() on_cpu::wait_for_stores(0)
#define tvm_builtin_ptx_cp_async_bulk_wait_group_async_bulk_wait_group_read_1() on_cpu::wait_for_stores(1)
inline void tvm_builtin_ptx_fence_proxy_proxy_async_shared__cta() {
  on_cpu::current->hopper.unfenced.clear();
}

inline void tvm_builtin_ptx_wgmma_fence_fence_sync_aligned() { on_cpu::current->hopper.fenced = true; }
inline void tvm_builtin_ptx_wgmma_commit_group_commit_group_sync_aligned() {
  on_cpu::Hopper& mine = on_cpu::current->hopper;
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}
#define tvm_builtin_ptx_wgmma_wait_group_wait_group_sync_aligned_0() on_cpu::wait_for_products(0)
#define tvm_builtin_ptx_wgmma_wait_group_wait_group_sync_aligned_1() on_cpu::wait_for_products(1)
inline void settled(float&) {}

// Four 8x8 matrices of halves, whose rows the lanes point at: the inverse of ldmatrix.
inline void tvm_builtin_ptx_stmatrix_sync_aligned_m8n8_x4_shared_b16(
    uint32_t address, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  on_cpu::Thread& me = *on_cpu::current;
  int lane = me.index % 32;
  uint32_t mine[] = {address, r0, r1, r2, r3};
  memcpy(me.warp->words[lane], mine, sizeof mine);
  on_cpu::meet(me.warp->meeting);
  char* row = on_cpu::shared(address);
  for (int pair = 0; pair < 4; pair++)
    memcpy(row + 4 * pair, &me.warp->words[lane % 8 * 4 + pair][1 + lane / 8], 4);
  me.hopper.unfenced.push_back(address);
  on_cpu::meet(me.warp->meeting);
}
