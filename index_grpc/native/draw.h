// The next token of a row of logits, drawn among the likeliest. The rules are those of `model/drawing.py`.
#pragma once

#include <cmath>
#include <limits>

#include "rank.h"
#include "rank_all.h"

constexpr int kNotANumber = -1;  // drawn where the logits hold a number that is not one
constexpr int kRankedFirst = 1024;  // of a whole vocabulary; draws hardly ever fall on others

// How a slot's tokens are drawn; a row of the table of `model/drawing.py`.
struct Knobs {
  double temperature, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty, top_k, seed;
};

// All slots: how each one's tokens are drawn, and what has occurred in its sequence, [vocab_size] as in Ranking.
struct SlotTable {
  const Knobs* knobs;
  uint8_t* occurred;
  float* counts;
};

// Rows of logits, each with its slot, and which token of its answer is drawn, from 0 on.
struct DrawnRows {
  const float* logits;
  int64_t logits_stride;
  const int32_t* slots;
  const int32_t* steps;
};

// A number in [0, 1) that depends on its arguments alone (SplitMix64 of both).
inline double uniform(uint64_t seed, uint64_t step) {
  uint64_t z = (seed << 32 | step) + 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return static_cast<double>((z ^ (z >> 31)) >> 11) / static_cast<double>(uint64_t{1} << 53);
}

// Which of `count` scores, highest first, the draw from [0, 1) falls on.
inline int choose(const float* scores, int count, const Knobs& knobs, double draw) {
  double shares[kMostCandidates], total = 0.0;
  for (int i = 0; i < count; ++i) {
    shares[i] = std::exp((static_cast<double>(scores[i]) - scores[0]) / knobs.temperature);  // the first is 1
    total += shares[i];
  }
  int num_kept = 1;
  double kept = shares[0];
  while (num_kept < count && kept < knobs.top_p * total && shares[num_kept] >= knobs.min_p) kept += shares[num_kept++];
  double reached = 0.0;
  for (int i = 0; i < num_kept; ++i) {
    reached += shares[i];
    if (reached > draw * kept) return i;
  }
  return num_kept - 1;
}

// The same of tokens that are too many to rank beforehand.
class Choice {
 public:
  Choice(RankedVocabulary& vocabulary, const Knobs& knobs) : vocabulary_(vocabulary), knobs_(knobs) {
    const bool has_limit = knobs.top_k > 0.0 && knobs.top_k < vocabulary.size();
    limit_ = has_limit ? static_cast<int>(knobs.top_k) : vocabulary.size();
    rank(has_limit ? limit_ : std::min(kRankedFirst, limit_));
    for (int place = 0; place < limit_; ++place) total_ += vocabulary.share(place, knobs.temperature);
  }

  int32_t at(double draw) {
    const double kept = kept_of_all();
    double reached = 0.0;
    for (int place = 0;; ++place) {
      reached += share(place);
      if (reached > draw * kept || place == num_kept_ - 1) return vocabulary_.id(place);
    }
  }

 private:
  // The sum of the shares that top_p and min_p leave. Sets num_kept_, and ranks no further than it must.
  double kept_of_all() {
    num_kept_ = limit_;
    if (knobs_.top_p >= 1.0 && knobs_.min_p <= 0.0) return total_;
    double kept = share(0);
    for (num_kept_ = 1; num_kept_ < limit_ && kept < knobs_.top_p * total_; ++num_kept_) {
      const double next = share(num_kept_);
      if (next < knobs_.min_p) break;
      kept += next;
    }
    return kept;
  }

  double share(int place) {
    if (place >= num_ranked_) rank(limit_);
    return vocabulary_.share(place, knobs_.temperature);
  }

  void rank(int count) {
    vocabulary_.rank(count);
    num_ranked_ = count;
  }

  RankedVocabulary& vocabulary_;
  const Knobs& knobs_;
  int limit_, num_ranked_ = 0, num_kept_ = 0;
  double total_ = 0.0;
};

// One of all tokens, or of more than can be ranked beforehand; kNotANumber where there is none.
inline int32_t drawn_from_all(const Ranking& row, int vocab_size, const Knobs& knobs, double draw) {
  RankedVocabulary vocabulary(row, vocab_size);
  return vocabulary.is_number() ? Choice(vocabulary, knobs).at(draw) : kNotANumber;
}

// One of the likeliest few; kNotANumber where there is none.
inline int32_t drawn_from_few(const Ranking& row, int vocab_size, const Knobs& knobs, double draw) {
  float scores[kMostCandidates];
  int32_t ids[kMostCandidates];
  rank(row, vocab_size, scores, ids);
  return std::isfinite(scores[0]) ? ids[choose(scores, row.num_wanted, knobs, draw)] : kNotANumber;
}

// The next token of one row, which its slot's history takes; kNotANumber where there is none.
inline int32_t draw(const DrawnRows& rows, int row, const SlotTable& table, int vocab_size) {
  const int64_t slot = rows.slots[row];
  const Knobs& knobs = table.knobs[slot];
  uint8_t* occurred = table.occurred + slot * vocab_size;
  float* counts = table.counts + slot * vocab_size;
  const bool counts_answer = knobs.frequency_penalty != 0.0 || knobs.presence_penalty != 0.0;
  const Ranking ranking = {
      rows.logits + row * rows.logits_stride,
      occurred,
      counts_answer ? counts : nullptr,
      static_cast<float>(knobs.repetition_penalty),
      static_cast<float>(knobs.frequency_penalty),
      static_cast<float>(knobs.presence_penalty),
      static_cast<int32_t>(std::min<double>(knobs.top_k, vocab_size)),
  };
  const double number = uniform(static_cast<uint64_t>(knobs.seed), rows.steps[row]);
  const bool are_few = 0 < ranking.num_wanted && ranking.num_wanted <= kMostCandidates;
  const int32_t id = are_few ? drawn_from_few(ranking, vocab_size, knobs, number)
                             : drawn_from_all(ranking, vocab_size, knobs, number);
  if (id == kNotANumber) return id;
  occurred[id] = 1;
  counts[id] += 1.0f;
  return id;
}
