// The likeliest tokens of each row of logits, once what has occurred is penalised.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "vector.h"

constexpr int kMostCandidates = 64;

// One row of logits [vocab_size], and what is known of its sequence.
struct Ranking {
  const float* logits;
  const uint8_t* occurred;  // [vocab_size] 1 where a token stands in prompt or answer
  const float* counts;      // [vocab_size] how often a token stands in the answer
  float repetition_penalty, frequency_penalty, presence_penalty;
  int32_t num_wanted;  // from 1 to kMostCandidates
};

// The best of what has been offered, best first; of equal ones the first that came.
class Best {
 public:
  explicit Best(int most) : most_(most) { std::fill_n(scores_, most, -std::numeric_limits<float>::infinity()); }

  // What an offer must exceed.
  float bar() const { return scores_[most_ - 1]; }

  void offer(float score, int64_t id) {
    if (!(score > bar())) return;
    int place = most_ - 1;
    for (; place > 0 && score > scores_[place - 1]; --place) {
      scores_[place] = scores_[place - 1];
      ids_[place] = ids_[place - 1];
    }
    scores_[place] = score;
    ids_[place] = id;
  }

  // Fills up to `width` with minus infinity.
  void write(float* scores, int64_t* ids, int width) const {
    std::copy_n(scores_, most_, scores);
    std::copy_n(ids_, most_, ids);
    std::fill(scores + most_, scores + width, -std::numeric_limits<float>::infinity());
    std::fill(ids + most_, ids + width, 0);
  }

 private:
  int most_;
  float scores_[kMostCandidates];
  int64_t ids_[kMostCandidates] = {};
};

// The scores of kLanes tokens. A penalty so small that it overflows gives the largest number instead.
ALWAYS_INLINE Vec penalised(const Ranking& row, Vec logits, Vec occurred, Vec counts) {
  const float most = std::numeric_limits<float>::max();
  const Vec factor = occurred > 0.0f ? all(row.repetition_penalty) : all(1.0f);
  Vec scores = logits < 0.0f ? logits * factor : logits / factor;
  if (row.repetition_penalty < 1.0f) {
    scores = scores > most ? all(most) : scores;
    scores = scores < -most ? all(-most) : scores;
  }
  return scores - counts * row.frequency_penalty - (counts > 0.0f ? all(row.presence_penalty) : Vec{});
}

// Writes the row's likeliest tokens, likeliest first, [kMostCandidates] scores and ids. Where a score is not a number,
// the first one written is not a number either.
inline void rank(const Ranking& row, int vocab_size, float* scores, int64_t* ids) {
  typedef uint8_t Flags __attribute__((vector_size(kLanes)));
  Best best(row.num_wanted);
  uint32_t unordered = 0;
  for (int first = 0; first < vocab_size; first += kLanes) {
    const int count = std::min(kLanes, vocab_size - first);
    Vec logits = all(-std::numeric_limits<float>::infinity()), counts = {};
    Flags flags = {};
    memcpy(&logits, row.logits + first, count * sizeof(float));
    memcpy(&counts, row.counts + first, count * sizeof(float));
    memcpy(&flags, row.occurred + first, count);
    const Vec found = penalised(row, logits, __builtin_convertvector(flags, Vec), counts);
    unordered |= bits(found != found);
    for (uint32_t higher = bits(found > best.bar()); higher != 0; higher &= higher - 1) {
      const int lane = __builtin_ctz(higher);
      best.offer(found[lane], first + lane);
    }
  }
  best.write(scores, ids, kMostCandidates);
  if (unordered) scores[0] = std::numeric_limits<float>::quiet_NaN();
}
