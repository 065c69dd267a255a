// The element types that tensor cores multiply, as C++ types that convert to float.
#pragma once
#include <stdint.h>

typedef _Float16 half;

struct nv_bfloat16 {
  uint16_t bits;
  nv_bfloat16() = default;
  // Rounds to the nearest, to even; NaN stays NaN.
  explicit nv_bfloat16(float x) {
    uint32_t wide;
    __builtin_memcpy(&wide, &x, 4);
    bits = x != x ? 0x7fff : (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
  }
  operator float() const {
    uint32_t wide = uint32_t(bits) << 16;
    float x;
    __builtin_memcpy(&x, &wide, 4);
    return x;
  }
};
