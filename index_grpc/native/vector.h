// A register of floats, as wide as those of the CPU for which this file is compiled, and the functions on it.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <limits>

#if defined(__AVX512F__)
#define INDEX_LANES 16
#elif defined(__AVX2__) && defined(__FMA__)
#define INDEX_LANES 8
#else
#error "needs AVX2 with FMA, or AVX-512"
#endif

constexpr int kLanes = INDEX_LANES;

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedVec __attribute__((vector_size(kLanes * 4), aligned(4)));

#define ALWAYS_INLINE __attribute__((always_inline)) inline

ALWAYS_INLINE Vec load(const float* from) { return *reinterpret_cast<const UnalignedVec*>(from); }
ALWAYS_INLINE void store(float* to, Vec value) { *reinterpret_cast<UnalignedVec*>(to) = value; }
ALWAYS_INLINE Vec all(float value) { return Vec{} + value; }
ALWAYS_INLINE Vec larger(Vec a, Vec b) { return a > b ? a : b; }

// Lane i holds first + i.
ALWAYS_INLINE Ints count_from(int first) {
#if INDEX_LANES == 16
  return Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + first;
#else
  return Ints{0, 1, 2, 3, 4, 5, 6, 7} + first;
#endif
}

// Loads up to kLanes floats, with zeros past `count`.
ALWAYS_INLINE Vec load_some(const float* from, int count) {
  if (count >= kLanes) return load(from);
  Vec found = {};
  for (int lane = 0; lane < count; ++lane) found[lane] = from[lane];
  return found;
}

// Converts kLanes signed bytes to floats.
ALWAYS_INLINE Vec from_bytes(const void* from) {
#if INDEX_LANES == 16
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from))));
#else
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(from))));
#endif
}

// Bit i tells whether lane i of a comparison's result is true.
ALWAYS_INLINE uint32_t bits(Ints comparison) {
#if INDEX_LANES == 16
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(comparison));
#else
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(comparison)));
#endif
}

// Sums the lanes from the first to the last, so that the order never changes.
ALWAYS_INLINE float sum(Vec value) {
  float total = value[0];
  for (int lane = 1; lane < kLanes; ++lane) total += value[lane];
  return total;
}

ALWAYS_INLINE float largest(Vec value) {
  float found = value[0];
  for (int lane = 1; lane < kLanes; ++lane) found = value[lane] > found ? value[lane] : found;
  return found;
}

// e to the power of each lane, within 2 units in the last place; below -87 it is about 1e-38, above 88 about 1e38.
ALWAYS_INLINE Vec exponential(Vec x) {
  x = larger(x, all(-87.0f));
  x = x < 88.0f ? x : all(88.0f);
  const Vec shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to a whole power of two
  const Vec whole = shifted - 12582912.0f;
  const Vec rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vec power = all(1.9875691500e-4f);
  power = power * rest + 1.3981999507e-3f;
  power = power * rest + 8.3334519073e-3f;
  power = power * rest + 4.1665795894e-2f;
  power = power * rest + 1.6666665459e-1f;
  power = power * rest + 5.0000001201e-1f;
  power = power * (rest * rest) + rest + 1.0f;
  const Ints exponent = (reinterpret_cast<Ints>(shifted) << 23) + (127 << 23);  // the low bits of shifted hold whole
  return power * reinterpret_cast<Vec>(exponent);
}

// Sums pairs of lanes within each 128 bits: [a0+a1, a2+a3, b0+b1, b2+b3, ...].
ALWAYS_INLINE Vec pair_sums(Vec a, Vec b) {
#if INDEX_LANES == 16
  return __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
         __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
#else
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
         __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
#endif
}

// Sums neighbouring parts of 128 bits, those of `a` first.
ALWAYS_INLINE Vec quarter_sums(Vec a, Vec b) {
#if INDEX_LANES == 16
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
         __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
#else
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
#endif
}

// Lane i is the sum of all lanes of parts[i], added in the same order for every i.
ALWAYS_INLINE Vec sums(const Vec (&parts)[kLanes]) {
  Vec fours[kLanes / 4];
#pragma GCC unroll 4
  for (int i = 0; i < kLanes / 4; ++i) {
    fours[i] = pair_sums(pair_sums(parts[4 * i], parts[4 * i + 1]), pair_sums(parts[4 * i + 2], parts[4 * i + 3]));
  }
#if INDEX_LANES == 16
  return quarter_sums(quarter_sums(fours[0], fours[1]), quarter_sums(fours[2], fours[3]));
#else
  return quarter_sums(fours[0], fours[1]);
#endif
}
