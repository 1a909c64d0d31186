// Draws the next token of a row of logits. The rules are those of `model/drawing.py`.
#pragma once

#include <cmath>
#include <limits>

#include "rank.h"
#include "rank_all.h"

constexpr int kNotANumber = -1;  // in place of a token: a score is NaN, or the highest is not finite

// A slot's sampling parameters: a row of the table of `model/drawing.py`.
struct Params {
  double temperature, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty, top_k, seed;
};

// The sampling parameters of all slots and their token histories, [vocab_size] for each slot, as in Ranking.
struct SlotTable {
  const Params* params;
  uint8_t* occurred;
  float* counts;
};

// Rows of logits, with the slot of each and the index in its answer of the token to draw, from 0 on.
struct DrawnRows {
  const float* logits;
  int64_t logits_stride;
  const int32_t* slots;
  const int32_t* steps;
};

// Returns a number in [0, 1) that depends only on its arguments (SplitMix64 of both).
inline double uniform(uint64_t seed, uint64_t step) {
  uint64_t z = (seed << 32 | step) + 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return static_cast<double>((z ^ (z >> 31)) >> 11) / static_cast<double>(uint64_t{1} << 53);
}

// Returns on which of `count` places the draw, from [0, 1), falls. share(place) is the probability of a place's token
// divided by the first place's; it never grows from place to place. `total` is the sum of all shares.
template <class Share>
int choose(const Share& share, int count, double total, const Params& params, double draw) {
  int num_kept = count;
  double kept = total;
  if (params.top_p < 1.0 || params.min_p > 0.0) {
    kept = share(0);
    for (num_kept = 1; num_kept < count && kept < params.top_p * total && share(num_kept) >= params.min_p; ++num_kept) {
      kept += share(num_kept);
    }
  }
  double reached = 0.0;
  for (int place = 0; place < num_kept - 1; ++place) {
    reached += share(place);
    if (reached > draw * kept) return place;
  }
  return num_kept - 1;
}

// Draws one of at most kMaxCandidates tokens, or returns kNotANumber.
inline int32_t drawn_from_few(const Ranking& row, int vocab_size, const Params& params, double draw) {
  float scores[kMaxCandidates];
  int32_t ids[kMaxCandidates];
  rank(row, vocab_size, scores, ids);
  if (!std::isfinite(scores[0])) return kNotANumber;
  double shares[kMaxCandidates], total = 0.0;
  for (int place = 0; place < row.num_wanted; ++place) {
    total += shares[place] = likelihood(scores[place], scores[0], params.temperature);
  }
  return ids[choose([&](int place) { return shares[place]; }, row.num_wanted, total, params, draw)];
}

// Draws one of all tokens, or of more than kMaxCandidates, or returns kNotANumber.
inline int32_t drawn_from_all(const Ranking& row, int vocab_size, const Params& params, double draw) {
  const int count = row.num_wanted > 0 ? row.num_wanted : vocab_size;
  RankedVocabulary vocabulary(row, vocab_size, count, params.temperature);
  if (!vocabulary.is_number()) return kNotANumber;
  const auto share = [&](int place) { return vocabulary.share(place); };
  return vocabulary.id(choose(share, count, vocabulary.total(), params, draw));
}

// Draws the next token of one row and adds it to its slot's history, or returns kNotANumber.
inline int32_t draw(const DrawnRows& rows, int row, const SlotTable& table, int vocab_size) {
  const int64_t slot = rows.slots[row];
  const Params& params = table.params[slot];
  uint8_t* occurred = table.occurred + slot * vocab_size;
  float* counts = table.counts + slot * vocab_size;
  const bool counts_answer = params.frequency_penalty != 0.0 || params.presence_penalty != 0.0;
  const Ranking ranking = {
      rows.logits + row * rows.logits_stride,
      occurred,
      counts_answer ? counts : nullptr,
      static_cast<float>(params.repetition_penalty),
      static_cast<float>(params.frequency_penalty),
      static_cast<float>(params.presence_penalty),
      static_cast<int32_t>(std::min<double>(params.top_k, vocab_size)),
  };
  const double number = uniform(static_cast<uint64_t>(params.seed), rows.steps[row]);
  const bool are_few = 0 < ranking.num_wanted && ranking.num_wanted <= kMaxCandidates;
  const int32_t id = are_few ? drawn_from_few(ranking, vocab_size, params, number)
                             : drawn_from_all(ranking, vocab_size, params, number);
  if (id == kNotANumber) return id;
  occurred[id] = 1;
  counts[id] += 1.0f;
  return id;
}
