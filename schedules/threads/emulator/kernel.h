// What the C++ text of a translated kernel sees: CUDA's types, a thread's place in the grid, and the
// instructions, which `runtime.cpp` carries out. Short, since every kernel's compilation reads it.
#pragma once
#include <stdint.h>

#include "elements.h"

typedef unsigned int uint;
typedef unsigned char uchar;
typedef unsigned short ushort;
struct alignas(4) half2 { half x, y; };
struct alignas(8) half4 { half x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { uint x, y; };
struct alignas(16) uint4 { uint x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline half2 make_half2(half x, half y) { return {x, y}; }
inline half4 make_half4(half x, half y, half z, half w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint x, uint y) { return {x, y}; }
inline uint4 make_uint4(uint x, uint y, uint z, uint w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline half __float2half_rn(float x) { return half(x); }
inline uint __pack_half2(half x, half y) {
  half2 pair{x, y};
  uint bits;
  __builtin_memcpy(&bits, &pair, 4);
  return bits;
}

inline float __uint_as_float(uint bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
inline uint __float_as_uint(float x) {
  uint bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}
// Byte i is that byte of {b, a} which the i-th four bits name.
inline uint __byte_perm(uint a, uint b, uint selector) {
  uint64_t both = uint64_t(b) << 32 | a;
  uint bytes = 0;
  for (int i = 0; i < 4; i++) bytes |= uint(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return bytes;
}
inline float __int_as_float(int bits) { return __uint_as_float(bits); }
inline int __float_as_int(float x) { return __float_as_uint(x); }

// NaN marks what has not arrived, so it must not be lost; `schedules.keep_nan` has the same on a GPU.
inline void tvmconv_keep_nan() {}
template <class T>
inline T max(T a, T b) { return a != a || a > b ? a : b; }
template <class T>
inline T min(T a, T b) { return a != a || a < b ? a : b; }
extern "C" {
float expf(float), exp2f(float), logf(float), sqrtf(float), tanhf(float), erff(float), powf(float, float);
float copysignf(float, float);
float nearbyintf(float), fabsf(float), floorf(float), ceilf(float), roundf(float), fmaxf(float, float);
}
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float x, float y) { return x / y; }

namespace emulator {

struct Index { int x, y, z; };
Index thread_index();
Index block_index();
char* shared_memory();
uint32_t shared_address(const void* pointer);

// An address with an offset, in shared memory or elsewhere.
inline uint32_t at(uint32_t address, int offset) { return address + offset; }
inline const void* at(const void* address, int offset) {
  return static_cast<const char*>(address) + offset;
}

// -- between threads
void sync_block();
void sync_warp();
void bar_sync(uint32_t number, uint32_t threads);
void cluster_arrive();
void cluster_wait();
uint32_t cluster_rank();
int lane_index();
uint32_t shuffle(uint32_t value, uint32_t lane);
template <class Word>
inline Word shuffled(Word value, int lane) {
  static_assert(sizeof(Word) == 4);
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  bits = shuffle(bits, lane);
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
inline void shfl_idx(uint32_t& d, uint32_t value, uint32_t lane, uint32_t, uint32_t) {
  d = shuffle(value, lane);
}

// -- registers and shared memory
void mapa(uint32_t& to, uint32_t address, uint32_t rank);
void load(uint32_t address, int words, uint32_t* to);
void store(uint32_t address, int words, const uint32_t* from);
template <class Word, class... Words>
inline void ld_shared(uint32_t address, Word& first, Words&... others) {
  constexpr int count = 1 + sizeof...(others);
  uint32_t words[count];
  load(address, count, words);
  Word* to[] = {&first, &others...};
  for (int i = 0; i < count; i++) __builtin_memcpy(to[i], &words[i], 4);
}
template <class... Words>
inline void st_shared(uint32_t address, Words... values) {
  uint32_t words[] = {uint32_t(values)...};
  store(address, sizeof...(values), words);
}
void ldmatrix(bool transposed, uint32_t& r0, uint32_t& r1, uint32_t& r2, uint32_t& r3, uint32_t row);
void stmatrix(uint32_t row, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3);
void movmatrix(uint32_t& d, uint32_t a);
template <class Element>
void max_of_pairs(uint32_t& d, uint32_t a, uint32_t b);
template <class Element>
void product_of_pairs(uint32_t& d, uint32_t a, uint32_t b);

// Four bytes of a, and of b as signed ones.
template <class A>
inline void dp4a(int32_t& d, uint32_t a, uint32_t b, int32_t c) {
  uint32_t sum = c;
  for (int i = 0; i < 32; i += 8) sum += uint32_t(int32_t(A(a >> i)) * int32_t(int8_t(b >> i)));
  d = sum;
}
// NaN becomes 0.
inline void fma_sat(float& d, float a, float b, float c) {
  float x = __builtin_fmaf(a, b, c);
  d = x > 0 ? (x < 1 ? x : 1) : 0;
}
inline void mul_rn(float& d, float a, float b) { d = a * b; }
// Saturates; NaN becomes 0.
inline void cvt_rni(int32_t& d, float a) {
  d = a != a ? 0 : a >= 0x1p31f ? INT32_MAX : a < -0x1p31f ? INT32_MIN : int32_t(__builtin_rintf(a));
}
template <class Byte>
inline uint32_t saturated(int32_t x) {
  constexpr int32_t least = Byte(-1) < 0 ? -128 : 0, most = least + 255;
  return uint8_t(x < least ? least : x > most ? most : x);
}
template <class Byte>
inline void cvt_pack(uint32_t& d, int32_t a, int32_t b, uint32_t c) {
  d = saturated<Byte>(b) | saturated<Byte>(a) << 8 | c << 16;
}

// -- asynchronous copies of a thread
void cp_async(uint32_t to, const void* from, int bytes, uint32_t read);
inline void cp_async(uint32_t to, const void* from, int bytes) { cp_async(to, from, bytes, uint32_t(bytes)); }
inline void cp_async(uint32_t to, const void* from, int bytes, bool ignored) {
  cp_async(to, from, bytes, uint32_t(ignored ? 0 : bytes));
}
void cp_async_commit();
void cp_async_wait(int left);

// -- products
// Registers of integers hold their bits.
template <class A, class B, class Accumulator, class Register>
void mma_sync(Register& d0, Register& d1, Register& d2, Register& d3, uint32_t a0, uint32_t a1,
              uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1, Register c0, Register c1,
              Register c2, Register c3);
template <class A, class B, class Accumulator, class Register>
void wgmma(int columns, Register* first, Register* last, uint64_t a, uint64_t b, bool add);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int left);

// -- mbarriers, the copy engine, registers that are handed on
struct TensorMap;
void mbarrier_init(uint32_t address, uint32_t count);
void mbarrier_arrive(uint32_t address, uint32_t count);
void mbarrier_arrive_expect_tx(uint32_t address, uint32_t bytes);
void mbarrier_wait(uint32_t address, int parity);
void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier);
void load_box(uint32_t to, const TensorMap& map, const int (&coordinates)[4], uint32_t barrier,
              const int (&offsets)[2]);
inline void load_im2col(uint32_t to, const void* map, int c, int w, int h, int n, uint32_t barrier,
                        int right, int down) {
  load_box(to, *static_cast<const TensorMap*>(map), {c, w, h, n}, barrier, {right, down});
}
inline void load_tile(uint32_t to, const void* map, int c, int m, uint32_t barrier) {
  load_box(to, *static_cast<const TensorMap*>(map), {c, m, 0, 0}, barrier, {0, 0});
}
void store_tile(const void* map, int c, int m, uint32_t from);
void bulk_commit();
void bulk_wait(int left);
void fence_proxy();
void setmaxnreg(bool more, int count);

}  // namespace emulator

typedef emulator::TensorMap CUtensorMap;
#define threadIdx emulator::thread_index()
#define blockIdx emulator::block_index()
#define __syncthreads emulator::sync_block
#define __syncwarp emulator::sync_warp
#define __cvta_generic_to_shared emulator::shared_address
template <class Word>
inline Word __shfl_sync(uint, Word value, int lane, int = 32) {
  return emulator::shuffled(value, lane);
}
template <class Word>
inline Word __shfl_xor_sync(uint, Word value, int mask, int = 32) {
  return emulator::shuffled(value, emulator::lane_index() ^ mask);
}
