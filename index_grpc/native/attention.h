// Attention over rows of keys and values, computed for each query as if it were alone.
//
// A row of the cache holds one sequence: for each layer its keys, then its values, [kv heads, capacity, head size] each.
// Every query's scores, shares and mix are added up in an order that depends on its own position only, so the result
// has the same bits whether the token came in a prompt of any cut or was generated, and whoever else is being served.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "crew.h"
#include "vector.h"

// `count` tokens of one sequence from position `start` on.
struct Span {
  float* row;
  int64_t capacity;
  int32_t start;
  int32_t count;
};

struct Heads {
  int num_heads, num_kv_heads, head_dim;
  int group() const { return num_heads / num_kv_heads; }
  int64_t layer_floats(int64_t capacity) const { return 2 * num_kv_heads * capacity * head_dim; }
};

constexpr int kMostQueries = 16;  // of a task: they share what is read of the row
constexpr int kKeysAtOnce = 64;   // values that are mixed before the next query's turn
constexpr int kKeysAhead = 1024;  // how far ahead of their use keys are fetched, in floats
constexpr int kValuesAhead = 512;

// Some queries, each [head_dim], that look at the same keys and values.
struct Queries {
  int count = 0;
  const float* query[kMostQueries];
  float* out[kMostQueries];
  int num_keys[kMostQueries];  // how many keys each may see

  int most_keys() const { return *std::max_element(num_keys, num_keys + count); }
};

// Dot products of one query with kLanes keys.
ALWAYS_INLINE Vec dots(const float* query, const float* keys, int head_dim) {
  Vec parts[kLanes] = {};
  for (int at = 0; at < head_dim; at += kLanes) {
    const Vec piece = load(query + at);
#pragma GCC unroll 16
    for (int key = 0; key < kLanes; ++key) {
      const float* part = keys + key * head_dim + at;
      __builtin_prefetch(part + kKeysAhead);
      parts[key] += piece * load(part);
    }
  }
  return sums(parts);
}

// scores [count, stride]: dot products with every key, kLanes keys at a time; what lies past a query's keys is noise.
inline void score(const Queries& queries, const float* keys, int head_dim, float* scores, int64_t stride) {
  const int most = queries.most_keys();
  for (int first = 0; first < most; first += kLanes) {
    const float* block = keys + static_cast<int64_t>(first) * head_dim;
    for (int i = 0; i < queries.count; ++i) {
      if (first < queries.num_keys[i]) store(scores + i * stride + first, dots(queries.query[i], block, head_dim));
    }
  }
}

// Scores → shares that sum to one, times the sum that is returned; zero past num_keys, up to whole registers.
inline float shares(float* scores, int num_keys) {
  const int last = (num_keys - 1) / kLanes * kLanes;
  const Vec minus_infinity = all(-std::numeric_limits<float>::infinity());
  store(scores + last, count_from(last) < num_keys ? load(scores + last) : minus_infinity);
  Vec highest = minus_infinity;
  for (int at = 0; at <= last; at += kLanes) highest = larger(highest, load(scores + at));
  const float peak = largest(highest);
  Vec total = {};
  for (int at = 0; at <= last; at += kLanes) {
    Vec share = exponential(load(scores + at) - peak);
    if (at == last) share = count_from(last) < num_keys ? share : Vec{};
    store(scores + at, share);
    total += share;
  }
  return sum(total);
}

// Adds kWidth registers of the values of keys [first, end) to a query's mix, each with its share.
template <int kWidth>
ALWAYS_INLINE void mix_some(const float* shares, const float* values, int head_dim, int first, int end, float* out) {
  Vec mixed[kWidth];
  for (int i = 0; i < kWidth; ++i) mixed[i] = load(out + i * kLanes);
  for (int key = first; key < end; ++key) {
    const float* value = values + static_cast<int64_t>(key) * head_dim;
#pragma GCC unroll 8
    for (int i = 0; i < kWidth; ++i) {
      __builtin_prefetch(value + i * kLanes + kValuesAhead);
      mixed[i] += shares[key] * load(value + i * kLanes);
    }
  }
  for (int i = 0; i < kWidth; ++i) store(out + i * kLanes, mixed[i]);
}

inline void mix(const float* shares, const float* values, int head_dim, int first, int end, float* out) {
  int at = 0;
  for (; at + 8 * kLanes <= head_dim; at += 8 * kLanes) {
    mix_some<8>(shares, values + at, head_dim, first, end, out + at);
  }
  for (; at + 4 * kLanes <= head_dim; at += 4 * kLanes) {
    mix_some<4>(shares, values + at, head_dim, first, end, out + at);
  }
  for (; at < head_dim; at += kLanes) mix_some<1>(shares, values + at, head_dim, first, end, out + at);
}

// Each query's mix of the values it sees. `scores` has room for count rows of `stride` floats, whole registers.
inline void attend(const Queries& queries, const float* keys, const float* values, int head_dim, float* scores,
                   int64_t stride) {
  score(queries, keys, head_dim, scores, stride);
  float totals[kMostQueries];
  for (int i = 0; i < queries.count; ++i) {
    totals[i] = shares(scores + i * stride, queries.num_keys[i]);
    std::fill_n(queries.out[i], head_dim, 0.0f);
  }
  for (int first = 0; first < queries.most_keys(); first += kKeysAtOnce) {
    for (int i = 0; i < queries.count; ++i) {
      const int end = std::min(first + kKeysAtOnce, queries.num_keys[i]);
      if (first < end) mix(scores + i * stride, values, head_dim, first, end, queries.out[i]);
    }
  }
  for (int i = 0; i < queries.count; ++i) {
    for (int at = 0; at < head_dim; at += kLanes) {
      store(queries.out[i] + at, load(queries.out[i] + at) / totals[i]);
    }
  }
}
