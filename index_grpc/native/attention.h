// Attention over rows of keys and values, computed for each query as if it were alone.
//
// A sequence's keys and values are in blocks of kBlockTokens positions: for each layer the keys, then the values, [kv
// heads, kBlockTokens, head size] each. A query's shares are its softmax weights, its mix the weighted sum of values.
// Every query's scores, shares and mix are added up in an order that depends only on its own position, so the result
// has the same bits whether the token is prefilled, in whatever chunks, or decoded, and in any batch.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "thread_pool.h"
#include "vector.h"

constexpr int kBlockTokens = 64;

// `count` tokens of one sequence from position `start` on.
struct Span {
  float* const* blocks;
  int32_t start;
  int32_t count;
};

struct Heads {
  int num_heads, num_kv_heads, head_dim;
  int group() const { return num_heads / num_kv_heads; }
};

// The keys or the values of one head of one layer: [kBlockTokens, head_dim] at the same offset of every block.
struct Look {
  float* const* blocks;
  int64_t offset;
  int head_dim;

  float* at(int position) const {
    return blocks[position / kBlockTokens] + offset + static_cast<int64_t>(position % kBlockTokens) * head_dim;
  }
};

constexpr int kMostQueries = 64;      // of one task: they share the keys and values that it reads
constexpr int kFloatsAhead = 4096;    // how far ahead of their use keys and values are prefetched
constexpr int kMixedTogether = 16;    // positions whose values are mixed for all queries before the next ones

// Prefetches keys and values in the order in which a task reads them: the keys of a head, its values, the keys of the
// next head and so on. It prefetches only what will be read. Only the first head has to wait for its first keys.
class Ahead {
 public:
  // Begins at the keys of one head and covers `num_heads` heads, `num_positions` each. A head's values are `to_values`
  // floats after its keys.
  Ahead(const Look& keys, int64_t to_values, int num_heads, int num_positions)
      : next_(keys), to_values_(to_values), num_runs_(2 * num_heads), num_positions_(num_positions) {
    fetch(kFloatsAhead / keys.head_dim);
  }

  // Prefetches `count` more positions; call it before reading as many.
  void fetch(int count) {
    while (count > 0 && num_runs_ > 0) {
      const int some = std::min({count, num_positions_ - position_, kBlockTokens - position_ % kBlockTokens});
      const float* from = next_.at(position_);
      for (int at = 0; at < some * next_.head_dim; at += kLine) __builtin_prefetch(from + at, 0, kLevel);
      count -= some;
      position_ += some;
      if (position_ == num_positions_) turn();
    }
  }

 private:
  static constexpr int kLine = 16;  // floats
  static constexpr int kLevel = 2;  // for __builtin_prefetch: into the L2 cache, as the L1 cache is soon full

  // Moves on from keys to values, or from values to the next head's keys.
  void turn() {
    const bool had_keys = num_runs_ % 2 == 0;
    --num_runs_;
    position_ = 0;
    next_.offset += had_keys ? to_values_ : kBlockTokens * next_.head_dim - to_values_;
  }

  Look next_;
  const int64_t to_values_;
  int num_runs_;             // of keys or of values, still to be prefetched
  const int num_positions_;  // of each
  int position_ = 0;
};

// Some queries, each [head_dim], that attend to the same keys and values.
struct Queries {
  int count = 0;
  const float* query[kMostQueries];
  float* out[kMostQueries];
  int num_keys[kMostQueries];  // how many keys each may attend to

  int most_keys() const { return *std::max_element(num_keys, num_keys + count); }
};

// Returns the dot products of one query with kLanes keys.
ALWAYS_INLINE Vec dots(const float* query, const float* keys, int head_dim) {
  Vec parts[kLanes] = {};
  for (int at = 0; at < head_dim; at += kLanes) {
    const Vec piece = load(query + at);
#pragma GCC unroll 16
    for (int key = 0; key < kLanes; ++key) {
      parts[key] += piece * load(keys + key * head_dim + at);
    }
  }
  return sums(parts);
}

// Fills scores [count, stride] with dot products, kLanes keys at a time. Scores past a query's num_keys are undefined.
inline void score(const Queries& queries, const Look& keys, float* scores, int64_t stride, Ahead& ahead) {
  const int most = queries.most_keys();
  for (int first = 0; first < most; first += kLanes) {
    ahead.fetch(std::min(kLanes, most - first));
    const float* some = keys.at(first);
    for (int i = 0; i < queries.count; ++i) {
      if (first < queries.num_keys[i]) store(scores + i * stride + first, dots(queries.query[i], some, keys.head_dim));
    }
  }
}

// Turns scores into shares, not yet divided by their sum, which it returns. Zeros fill the last register past num_keys.
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

// Adds kWidth registers of each of `count` values to the mixes of kQueries queries, each with its own shares.
template <int kQueries, int kWidth>
ALWAYS_INLINE void mix_some(const float* const (&shares)[kQueries], const float* values, int head_dim, int count,
                            float* const (&out)[kQueries], int at) {
  Vec mixed[kQueries][kWidth];
  for (int i = 0; i < kQueries; ++i) {
    for (int part = 0; part < kWidth; ++part) mixed[i][part] = load(out[i] + at + part * kLanes);
  }
  for (int key = 0; key < count; ++key) {
    const float* value = values + static_cast<int64_t>(key) * head_dim + at;
#pragma GCC unroll 8
    for (int part = 0; part < kWidth; ++part) {
      const Vec piece = load(value + part * kLanes);
      for (int i = 0; i < kQueries; ++i) mixed[i][part] += shares[i][key] * piece;
    }
  }
  for (int i = 0; i < kQueries; ++i) {
    for (int part = 0; part < kWidth; ++part) store(out[i] + at + part * kLanes, mixed[i][part]);
  }
}

template <int kQueries>
void mix(const float* const (&shares)[kQueries], const float* values, int head_dim, int count,
         float* const (&out)[kQueries]) {
  if (count <= 0) return;
  constexpr int kWidth = 8 / kQueries;
  int at = 0;
  for (; at + kWidth * kLanes <= head_dim; at += kWidth * kLanes) {
    mix_some<kQueries, kWidth>(shares, values, head_dim, count, out, at);
  }
  for (; at < head_dim; at += kLanes) mix_some<kQueries, 1>(shares, values, head_dim, count, out, at);
}

// Mixes the values of some positions, from `first` on: for two queries at once as far as both may attend to them.
inline void mix_piece(const Queries& queries, const float* scores, int64_t stride, int first, const Look& values) {
  const float* piece = values.at(first);
  const auto seen = [&](int i) { return std::clamp(queries.num_keys[i] - first, 0, kMixedTogether); };
  const auto rest = [&](int i, int from) {
    const float* const shares[] = {scores + i * stride + first + from};
    float* const out[] = {queries.out[i]};
    mix(shares, piece + static_cast<int64_t>(from) * values.head_dim, values.head_dim, seen(i) - from, out);
  };
  int i = 0;
  for (; i + 1 < queries.count; i += 2) {
    const int both = std::min(seen(i), seen(i + 1));
    const float* const shares[] = {scores + i * stride + first, scores + (i + 1) * stride + first};
    float* const out[] = {queries.out[i], queries.out[i + 1]};
    mix(shares, piece, values.head_dim, both, out);
    rest(i, both);
    rest(i + 1, both);
  }
  if (i < queries.count) rest(i, 0);
}

// Computes each query's mix of the values that it may attend to. `scores` has room for count rows of `stride` floats,
// which fill whole registers. `ahead` prefetches in step with the reading.
inline void attend(const Queries& queries, const Look& keys, const Look& values, float* scores, int64_t stride,
                   Ahead& ahead) {
  const int head_dim = keys.head_dim;
  score(queries, keys, scores, stride, ahead);
  float totals[kMostQueries];
  for (int i = 0; i < queries.count; ++i) {
    totals[i] = shares(scores + i * stride, queries.num_keys[i]);
    std::fill_n(queries.out[i], head_dim, 0.0f);
  }
  const int most = queries.most_keys();
  for (int first = 0; first < most; first += kMixedTogether) {
    ahead.fetch(std::min(kMixedTogether, most - first));
    mix_piece(queries, scores, stride, first, values);
  }
  for (int i = 0; i < queries.count; ++i) {
    for (int at = 0; at < head_dim; at += kLanes) {
      store(queries.out[i] + at, load(queries.out[i] + at) / totals[i]);
    }
  }
}
