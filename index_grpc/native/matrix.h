// Weights, and products with them whose rows never depend on each other.
//
// A matrix [outputs, inputs] is cut into panels of 2 * kLanes outputs, in each of which input follows input: one input's
// weights are two registers, `low` and `high`. A row of activations is multiplied with a panel by adding input after
// input into two registers of its own. That order is the same for one row and for a hundred, so a row has the same bits
// in any company.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "buffer.h"
#include "crew.h"
#include "vector.h"

constexpr int kPanel = 2 * kLanes;
constexpr int kGroup = 32;                        // inputs that share a scale in int8
constexpr int kMostRows = kLanes == 16 ? 12 : 6;  // rows whose sums fit into the registers at once
constexpr int kAheadBytes = 2560;                 // how far ahead of their use weights are fetched

enum class Format : int32_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2 };

// What is done with a row's two registers of sums.
enum class Finish { kStore, kAdd, kGate };

struct Matrix {
  Format format = Format::kFloat32;
  int num_inputs = 0;
  int num_panels = 0;
  int64_t panel_bytes = 0;
  Buffer data;
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

// How each format lays out a group of inputs within a panel. `open` looks at what the group's inputs share.
struct Float32Group {
  static constexpr int64_t kInputBytes = kPanel * 4, kHeadBytes = 0;
  ALWAYS_INLINE void open(const char* /*head*/) {}
  ALWAYS_INLINE void read(const char* input, Vec& low, Vec& high) const {
    fetch_ahead<kInputBytes>(input);
    low = reinterpret_cast<const Vec*>(input)[0];
    high = reinterpret_cast<const Vec*>(input)[1];
  }
};

struct Bfloat16Group {
  static constexpr int64_t kInputBytes = kPanel * 2, kHeadBytes = 0;
  ALWAYS_INLINE void open(const char* /*head*/) {}
  ALWAYS_INLINE void read(const char* input, Vec& low, Vec& high) const {
    fetch_ahead<kInputBytes>(input);
    read_bfloat16(input, low, high);
  }
};

// Each output's weights are whole numbers from -127 to 127 times a scale, a bfloat16, that a group of inputs shares.
struct Int8Group {
  static constexpr int64_t kInputBytes = kPanel, kHeadBytes = kPanel * 2;
  Vec low_scale, high_scale;
  ALWAYS_INLINE void open(const char* head) {
    fetch_ahead<kHeadBytes>(head);
    read_bfloat16(head, low_scale, high_scale);
  }
  ALWAYS_INLINE void read(const char* input, Vec& low, Vec& high) const {
    fetch_ahead<kInputBytes>(input);
    low = from_bytes(input) * low_scale;
    high = from_bytes(input + kLanes) * high_scale;
  }
};

template <class Group>
constexpr int64_t panel_bytes(int num_inputs) {
  const int64_t num_groups = (num_inputs + kGroup - 1) / kGroup;
  const int64_t bytes = num_groups * Group::kHeadBytes + num_inputs * Group::kInputBytes;
  return (bytes + 63) / 64 * 64;
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

// kRows rows of `in`, `in_stride` floats apart, times one panel.
template <class Group, int kRows>
void multiply_rows(const float* in, int64_t in_stride, const char* panel, int num_inputs, Finish how, float* out,
                   int64_t out_stride) {
  Vec low[kRows] = {}, high[kRows] = {};
  for (int first = 0; first < num_inputs; first += kGroup) {
    Group group;
    group.open(panel);
    panel += Group::kHeadBytes;
    const int end = std::min(first + kGroup, num_inputs);
    for (int input = first; input < end; ++input, panel += Group::kInputBytes) {
      Vec low_weights, high_weights;
      group.read(panel, low_weights, high_weights);
#pragma GCC unroll 16
      for (int row = 0; row < kRows; ++row) {
        const float value = in[row * in_stride + input];
        low[row] += value * low_weights;
        high[row] += value * high_weights;
      }
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) finish(how, low[row], high[row], out + row * out_stride);
}

template <class Group, int kRows = kMostRows>
void multiply_some(int num_rows, const float* in, int64_t in_stride, const char* panel, int num_inputs, Finish how,
                   float* out, int64_t out_stride) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) {
      return multiply_some<Group, kRows - 1>(num_rows, in, in_stride, panel, num_inputs, how, out, out_stride);
    }
  }
  multiply_rows<Group, kRows>(in, in_stride, panel, num_inputs, how, out, out_stride);
}

// All rows times one panel, in equal shares of at most kMostRows.
template <class Group>
void multiply_panel(int num_rows, const float* in, int64_t in_stride, const char* panel, int num_inputs, Finish how,
                    float* out, int64_t out_stride) {
  const int num_shares = (num_rows + kMostRows - 1) / kMostRows;
  for (int share = 0; share < num_shares; ++share) {
    const int first = num_rows * share / num_shares, end = num_rows * (share + 1) / num_shares;
    multiply_some<Group>(end - first, in + first * in_stride, in_stride, panel, num_inputs, how,
                         out + first * out_stride, out_stride);
  }
}

// in [num_rows, inputs] times the matrix → out [num_rows, outputs]. Strides are floats from row to row; a row of `out`
// must have room for whole panels.
inline void multiply(Crew& crew, const Matrix& matrix, int num_rows, const float* in, int64_t in_stride, Finish how,
                     float* out, int64_t out_stride) {
  const int outputs_of_panel = how == Finish::kGate ? kLanes : kPanel;
  const int num_tasks = std::min(matrix.num_panels, 8 * crew.size());
  crew.run(num_tasks, [&](int task) {
    const int64_t end = static_cast<int64_t>(matrix.num_panels) * (task + 1) / num_tasks;
    for (int64_t panel = static_cast<int64_t>(matrix.num_panels) * task / num_tasks; panel < end; ++panel) {
      const char* weights = matrix.data.as<const char>() + panel * matrix.panel_bytes;
      float* to = out + panel * outputs_of_panel;
      switch (matrix.format) {
        case Format::kFloat32:
          multiply_panel<Float32Group>(num_rows, in, in_stride, weights, matrix.num_inputs, how, to, out_stride);
          break;
        case Format::kBfloat16:
          multiply_panel<Bfloat16Group>(num_rows, in, in_stride, weights, matrix.num_inputs, how, to, out_stride);
          break;
        case Format::kInt8:
          multiply_panel<Int8Group>(num_rows, in, in_stride, weights, matrix.num_inputs, how, to, out_stride);
          break;
      }
    }
  });
}
