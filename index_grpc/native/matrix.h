// The storage of weights, and functions that all products with them use.
//
// A matrix [outputs, inputs] is cut into panels of 2 * kLanes outputs, the first half "low" and the second half "high".
// A panel stores one group of inputs after the other, so that a product reads it from the first byte to the last.
#pragma once

#include <cstdint>
#include <cstring>

#include "buffer.h"
#include "vector.h"

constexpr int kPanel = 2 * kLanes;
constexpr int kGroup = 32;         // inputs of a group
constexpr int kAheadBytes = 2560;  // how far ahead of their use weights are prefetched

// kTiles is bfloat16, laid out for the matrix unit.
enum class Format : int32_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2, kTiles = 3 };

// What to do with a row's two registers of sums, those of a panel's low and high outputs.
enum class Finish { kStore, kAdd, kGate };

struct Matrix {
  Format format = Format::kFloat32;
  int num_inputs = 0;
  int num_panels = 0;
  int64_t panel_bytes = 0;
  Buffer data;

  char* panel(int number) const { return data.as<char>() + number * panel_bytes; }
};

ALWAYS_INLINE float from_bfloat16(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
}

ALWAYS_INLINE uint32_t word_of(float value) {
  uint32_t word;
  memcpy(&word, &value, sizeof word);
  return word;
}

// A word holds the bfloat16 of a low output in its lower half and of a high output in its upper half; a bfloat16 is the
// upper half of a float.
ALWAYS_INLINE void read_bfloat16(const char* from, Vec& low, Vec& high) {
  const Words both = *reinterpret_cast<const Words*>(from);
  low = reinterpret_cast<Vec>(both << 16);
  high = reinterpret_cast<Vec>(both & 0xffff0000u);
}

template <int kBytes>
ALWAYS_INLINE void fetch_ahead(const char* from) {
  for (int line = 0; line < kBytes; line += 64) __builtin_prefetch(from + kAheadBytes + line);
}

ALWAYS_INLINE void finish(Finish how, Vec low, Vec high, float* out) {
  switch (how) {
    case Finish::kStore:
      store(out, low);
      store(out + kLanes, high);
      break;
    case Finish::kAdd:
      store(out, load(out) + low);
      store(out + kLanes, load(out + kLanes) + high);
      break;
    case Finish::kGate:  // the low outputs are gates: silu(low) * high
      store(out, low / (1.0f + exponential(-low)) * high);
      break;
  }
}
