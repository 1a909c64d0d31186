// Finds the likeliest tokens of a row of logits, after the penalties for tokens that have occurred.
#pragma once

#include <algorithm>
#include <limits>

#include "vector.h"

// The largest top_k whose candidates are found without ordering the whole vocabulary.
constexpr int kMaxCandidates = 64;

// One row of logits [vocab_size], the token history of its sequence, and the penalties.
struct Ranking {
  const float* logits;
  const uint8_t* occurred;  // [vocab_size] 1 if a token occurs in prompt or answer
  const float* counts;      // [vocab_size] how often a token occurs in the answer; null if that does not matter
  float repetition_penalty, frequency_penalty, presence_penalty;
  int32_t num_wanted;  // 0 means all; `rank` allows 1 to kMaxCandidates
};

// The best of the offered scores, best first; of equal scores, the one offered first comes first.
class Best {
 public:
  explicit Best(int most) : most_(most) { std::fill_n(scores_, most, -std::numeric_limits<float>::infinity()); }

  // The score that an offer must exceed.
  float bar() const { return scores_[most_ - 1]; }

  void offer(float score, int32_t id) {
    if (!(score > bar())) return;
    int place = most_ - 1;
    for (; place > 0 && score > scores_[place - 1]; --place) {
      scores_[place] = scores_[place - 1];
      ids_[place] = ids_[place - 1];
    }
    scores_[place] = score;
    ids_[place] = id;
  }

  void write(float* scores, int32_t* ids) const {
    std::copy_n(scores_, most_, scores);
    std::copy_n(ids_, most_, ids);
  }

 private:
  int most_;
  float scores_[kMaxCandidates];
  int32_t ids_[kMaxCandidates] = {};
};

// Returns the scores of kLanes tokens. If a tiny penalty makes one overflow, it becomes the largest finite number.
ALWAYS_INLINE Vec penalised(const Ranking& row, Vec logits, Vec occurred, Vec counts) {
  const float most = std::numeric_limits<float>::max();
  Vec scores = logits < 0.0f ? logits * row.repetition_penalty : logits / row.repetition_penalty;
  if (row.repetition_penalty < 1.0f) {
    scores = scores > most ? all(most) : scores;
    scores = scores < -most ? all(-most) : scores;
  }
  scores = occurred > 0.0f ? scores : logits;
  return scores - counts * row.frequency_penalty - (counts > 0.0f ? all(row.presence_penalty) : Vec{});
}

// Offers kLanes scores, of tokens from `first` on, to `best`; returns whether one of them is NaN.
ALWAYS_INLINE bool offer_all(Vec scores, int first, Best& best) {
  for (uint32_t higher = bits(scores > best.bar()); higher != 0; higher &= higher - 1) {
    const int lane = __builtin_ctz(higher);
    best.offer(scores[lane], first + lane);
  }
  return bits(scores != scores) != 0;
}

// Calls each(scores, first) for kLanes tokens at a time, from `first` on; scores past the last token are -inf.
template <class Each>
ALWAYS_INLINE void for_all_scores(const Ranking& row, int vocab_size, const Each& each) {
  const int whole = vocab_size / kLanes * kLanes;
  for (int first = 0; first < whole; first += kLanes) {
    const Vec occurred = from_bytes(row.occurred + first);
    Vec scores = load(row.logits + first);
    if (bits(occurred > 0.0f) != 0) {  // seldom true; only this branch is slow
      const Vec counts = row.counts == nullptr ? Vec{} : load(row.counts + first);
      scores = penalised(row, scores, occurred, counts);
    }
    each(scores, first);
  }
  if (whole < vocab_size) {
    Vec logits = all(-std::numeric_limits<float>::infinity()), occurred = {}, counts = {};
    for (int id = whole; id < vocab_size; ++id) {
      logits[id - whole] = row.logits[id];
      occurred[id - whole] = row.occurred[id];
      counts[id - whole] = row.counts == nullptr ? 0.0f : row.counts[id];
    }
    each(penalised(row, logits, occurred, counts), whole);
  }
}

// Writes the scores and ids [num_wanted] of the row's likeliest tokens, likeliest first. If any score of the row is
// NaN, the first score written is NaN.
inline void rank(const Ranking& row, int vocab_size, float* scores, int32_t* ids) {
  Best best(row.num_wanted);
  bool unordered = false;
  for_all_scores(row, vocab_size, [&](Vec found, int first) { unordered |= offer_all(found, first, best); });
  best.write(scores, ids);
  if (unordered) scores[0] = std::numeric_limits<float>::quiet_NaN();
}
