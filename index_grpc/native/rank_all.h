// Ranks all tokens of a row of logits, but only as far as needed.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "rank.h"

constexpr int kRankedFirst = 1024;  // tokens of a whole vocabulary; draws hardly ever fall on others

// Returns the probability of a score divided by that of the highest score.
inline double likelihood(float score, float highest, double temperature) {
  return std::exp((static_cast<double>(score) - highest) / temperature);
}

// The likeliest `count` tokens of a vocabulary. Sorting a whole vocabulary takes far longer than finding the few tokens
// on which draws nearly always fall, so the other tokens are sorted only if one of them is asked for.
class RankedVocabulary {
 public:
  RankedVocabulary(const Ranking& row, int vocab_size, int count, double temperature)
      : scores_(vocab_size + kLanes), ids_(vocab_size), count_(count), temperature_(temperature) {
    bool unordered = false;
    for_all_scores(row, vocab_size, [&](Vec found, int first) {
      store(scores_.data() + first, found);
      unordered |= bits(found != found) != 0;
    });
    std::iota(ids_.begin(), ids_.end(), 0);
    highest_ = *std::max_element(scores_.begin(), scores_.begin() + vocab_size);
    is_number_ = !unordered && std::isfinite(highest_);
    if (is_number_) rank(count < vocab_size ? count : std::min(kRankedFirst, count));
  }

  // Whether the highest score is finite and no score is NaN.
  bool is_number() const { return is_number_; }

  // Returns the sum of the shares of all `count` tokens, sorted or not.
  double total() const {
    double total = 0.0;
    for (int place = 0; place < count_; ++place) total += share_of(ids_[place]);
    return total;
  }

  // Returns the probability of the token at a place divided by that of the likeliest token.
  double share(int place) {
    if (place >= num_ranked_) rank(count_);
    return share_of(ids_[place]);
  }

  int32_t id(int place) {
    if (place >= num_ranked_) rank(count_);
    return ids_[place];
  }

 private:
  double share_of(int32_t id) const { return likelihood(scores_[id], highest_, temperature_); }

  // Sorts the likeliest `count` tokens, equal scores by ascending id.
  void rank(int count) {
    const auto end = ids_.begin() + count;
    const auto likelier = [this](int32_t one, int32_t other) {
      return scores_[one] != scores_[other] ? scores_[one] > scores_[other] : one < other;
    };
    if (end != ids_.end()) std::nth_element(ids_.begin(), end, ids_.end(), likelier);
    std::sort(ids_.begin(), end, likelier);
    num_ranked_ = count;
  }

  std::vector<float> scores_;
  std::vector<int32_t> ids_;
  int count_, num_ranked_ = 0;
  double temperature_;
  float highest_;
  bool is_number_;
};
