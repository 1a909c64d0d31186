// The next token of a row of logits, drawn among the likeliest. The rules are those of `model/drawing.py`.
#pragma once

#include <cmath>
#include <limits>

#include "rank.h"

constexpr int kNotANumber = -1;  // drawn where the logits hold a number that is not one

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
      static_cast<int32_t>(knobs.top_k),
  };
  float scores[kMostCandidates];
  int32_t ids[kMostCandidates];
  rank(ranking, vocab_size, scores, ids);
  if (!std::isfinite(scores[0])) return kNotANumber;
  const double number = uniform(static_cast<uint64_t>(knobs.seed), rows.steps[row]);
  const int32_t id = ids[choose(scores, ranking.num_wanted, knobs, number)];
  occurred[id] = 1;
  counts[id] += 1.0f;
  return id;
}
