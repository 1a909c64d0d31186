// All tokens of a row of logits, ranked as far as is asked for.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "rank.h"

// The scores of a whole vocabulary. To sort it takes far longer than to find the few tokens that draws nearly always fall
// on.
class RankedVocabulary {
 public:
  RankedVocabulary(const Ranking& row, int vocab_size) : scores_(vocab_size + kLanes), ids_(vocab_size) {
    bool unordered = false;
    for_all_scores(row, vocab_size, [&](Vec found, int first) {
      store(scores_.data() + first, found);
      unordered |= bits(found != found) != 0;
    });
    std::iota(ids_.begin(), ids_.end(), 0);
    likeliest_ = *std::max_element(scores_.begin(), scores_.begin() + vocab_size);
    is_number_ = !unordered && std::isfinite(likeliest_);
  }

  int size() const { return static_cast<int>(ids_.size()); }

  // Whether the highest score is finite, and all are numbers.
  bool is_number() const { return is_number_; }

  int32_t id(int place) const { return ids_[place]; }

  // How likely the token at a place is, by the likeliest one. In id's order before any has been ranked.
  double share(int place, double temperature) const {
    return std::exp((static_cast<double>(scores_[ids_[place]]) - likeliest_) / temperature);
  }

  // Puts the likeliest so many in order, of equal ones the first first.
  void rank(int count) {
    const auto end = ids_.begin() + count;
    const auto likelier = [this](int32_t one, int32_t other) {
      return scores_[one] != scores_[other] ? scores_[one] > scores_[other] : one < other;
    };
    if (end != ids_.end()) std::nth_element(ids_.begin(), end, ids_.end(), likelier);
    std::sort(ids_.begin(), end, likelier);
  }

 private:
  std::vector<float> scores_;
  std::vector<int32_t> ids_;
  float likeliest_;
  bool is_number_;
};
