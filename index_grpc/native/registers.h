// Products in vector registers, which every supported CPU has.
//
// One input's weights in a panel are two registers, `low` and `high`. A row of activations is multiplied by a panel by
// adding input after input into two registers of its own. That order is the same for any number of rows, so a row has
// the same bits in any batch.
#pragma once

#include <algorithm>

#include "matrix.h"

constexpr int kMostRows = kLanes == 16 ? 12 : 6;  // rows whose sums fit in the registers at once

// How each format stores a group of inputs within a panel. `open` reads what the inputs of the group share.
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

// Each output's weights are whole numbers from -127 to 127 times a bfloat16 scale, which a group of inputs shares.
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

// Multiplies kRows rows of `in`, `in_stride` floats apart, by one panel.
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

// Multiplies all rows by one panel, in equal shares of at most kMostRows rows.
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
