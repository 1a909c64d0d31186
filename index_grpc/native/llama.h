// The Llama forward pass over the tokens of a batch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "attention.h"
#include "thread_pool.h"
#include "matrix.h"
#include "packing.h"
#include "product.h"

struct Shape {
  int32_t num_layers, hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim, vocab_size;
  float rms_norm_eps;
};

struct Layer {
  std::vector<float> input_norm, post_attention_norm;
  Matrix qkv, output, gate_up, down;
};

// A table with one row for each token of a batch. The stride is never a multiple of 4096 bytes, because then the same
// column of all rows would compete for the same part of the cache.
struct Table {
  Buffer buffer;
  int64_t stride = 0;

  void resize(int num_rows, int width) {
    stride = (width + kPanel - 1) / kPanel * kPanel + kLanes;
    const size_t needed = num_rows * stride * sizeof(float);
    if (needed > buffer.size()) buffer = Buffer(needed);
  }
  float* row(int64_t number) const { return buffer.as<float>() + number * stride; }
};

class Llama {
 public:
  Llama(const Shape& shape, int num_threads) : shape_(shape), layers_(shape.num_layers), threads_(num_threads) {}

  ThreadPool& threads() { return threads_; }
  Layer& layer(int index) { return layers_.at(index); }
  Matrix& head() { return head_; }
  std::vector<float>& final_norm() { return final_norm_; }

  // The caller keeps the table of embeddings [vocab_size, hidden_size] alive.
  void set_embedding(const Rows& rows) { embedding_ = rows; }
  // The caller also keeps the cosine and sine of each position's angles alive, [positions, head_dim].
  void set_rotary(const float* cosine, const float* sine) { cosine_ = cosine, sine_ = sine; }

  // Computes the tokens of all spans, in order, and stores their keys and values in the spans' blocks. Fills logits
  // [num_sampled, logits_stride] after the tokens whose different, ascending row numbers are in `sampled`.
  void forward(const int32_t* token_ids, const Span* spans, int num_spans, const int32_t* sampled, int num_sampled,
               float* logits, int64_t logits_stride) {
    place(spans, num_spans);
    const int num_tokens = static_cast<int>(places_.size());
    if (num_tokens == 0) return;
    make_room(num_tokens);
    each_token(num_tokens, [&](int token) { embed(token_ids[token], hidden_.row(token)); });
    const int last = shape_.num_layers - 1;
    for (int index = 0; index < last; ++index) {
      store_keys(index, num_tokens);
      finish_layer(index, num_tokens);
    }
    store_keys(last, num_tokens);
    drop_all_but(sampled, num_sampled);
    finish_layer(last, num_sampled);
    each_token(num_sampled, [&](int i) { norm(hidden_.row(i), final_norm_, normed_.row(i)); });
    products_.multiply(head_, {num_sampled, normed_.row(0), normed_.stride, Finish::kStore, logits, logits_stride});
  }

 private:
  struct Place {
    const Span* span;
    int position;
  };
  // Adjacent tokens of a span whose attention is computed together.
  struct Stretch {
    const Span* span;
    int first_token, start, count;

    int64_t num_looks() const { return static_cast<int64_t>(start + count) * count; }
  };

  Heads heads() const { return {shape_.num_heads, shape_.num_kv_heads, shape_.head_dim}; }

  void place(const Span* spans, int num_spans) {
    places_.clear();
    stretches_.clear();
    const int together = std::max(1, kMostQueries / heads().group());
    for (const Span* span = spans; span < spans + num_spans; ++span) {
      for (int i = 0; i < span->count; i += together) {
        const int count = std::min(together, span->count - i);
        stretches_.push_back({span, static_cast<int>(places_.size()) + i, span->start + i, count});
      }
      for (int i = 0; i < span->count; ++i) places_.push_back({span, span->start + i});
    }
    order_stretches();
  }

  // Puts the longest first: a long one begun last would keep one thread busy after the others.
  void order_stretches() {
    std::sort(stretches_.begin(), stretches_.end(),
              [](const Stretch& one, const Stretch& other) { return one.num_looks() > other.num_looks(); });
  }

  void make_room(int num_tokens) {
    hidden_.resize(num_tokens, shape_.hidden_size);
    normed_.resize(num_tokens, shape_.hidden_size);
    qkv_.resize(num_tokens, (shape_.num_heads + 2 * shape_.num_kv_heads) * shape_.head_dim);
    mixed_.resize(num_tokens, shape_.num_heads * shape_.head_dim);
    gated_.resize(num_tokens, shape_.intermediate_size);
  }

  // Calls do_token(token) for every token, a few tokens in each task.
  template <class DoToken>
  void each_token(int num_tokens, const DoToken& do_token) {
    constexpr int kTogether = 4;
    threads_.run((num_tokens + kTogether - 1) / kTogether, [&](int task) {
      const int end = std::min((task + 1) * kTogether, num_tokens);
      for (int token = task * kTogether; token < end; ++token) do_token(token);
    });
  }

  // Computes a layer's queries, keys and values of all tokens, and stores the keys and values in the tokens' blocks.
  void store_keys(int index, int num_tokens) {
    const Layer& layer = layers_[index];
    each_token(num_tokens, [&](int token) { norm(hidden_.row(token), layer.input_norm, normed_.row(token)); });
    product(layer.qkv, num_tokens, normed_, Finish::kStore, qkv_);
    each_token(num_tokens, [&](int token) { keep(index, token); });
  }

  // Computes the rest of a layer: attention and the feed-forward part.
  void finish_layer(int index, int num_tokens) {
    const Layer& layer = layers_[index];
    look_back(index);
    product(layer.output, num_tokens, mixed_, Finish::kAdd, hidden_);
    each_token(num_tokens, [&](int token) { norm(hidden_.row(token), layer.post_attention_norm, normed_.row(token)); });
    product(layer.gate_up, num_tokens, normed_, Finish::kGate, gated_);
    product(layer.down, num_tokens, gated_, Finish::kAdd, hidden_);
  }

  // Drops the tokens that are not sampled: from the last layer only their keys and values are needed. Moves the rows of
  // the others to the front: from here on row i belongs to token sampled[i], but `places_` stays as it was.
  void drop_all_but(const int32_t* sampled, int num_sampled) {
    if (num_sampled == static_cast<int>(places_.size())) return;
    stretches_.clear();
    for (int i = 0; i < num_sampled; ++i) {
      const auto [span, position] = places_[sampled[i]];
      stretches_.push_back({span, i, position, 1});
      if (i == sampled[i]) continue;
      std::copy_n(hidden_.row(sampled[i]), shape_.hidden_size, hidden_.row(i));
      std::copy_n(qkv_.row(sampled[i]), shape_.num_heads * shape_.head_dim, qkv_.row(i));
    }
    order_stretches();
  }

  void product(const Matrix& matrix, int num_tokens, const Table& in, Finish how, const Table& out) {
    products_.multiply(matrix, {num_tokens, in.row(0), in.stride, how, out.row(0), out.stride});
  }

  void embed(int32_t token_id, float* out) const {
    for (int i = 0; i < shape_.hidden_size; ++i) out[i] = embedding_.at(token_id, i);
  }

  void norm(const float* in, const std::vector<float>& weight, float* out) const {
    Vec squares = {};
    for (int i = 0; i < shape_.hidden_size; i += kLanes) squares += load(in + i) * load(in + i);
    const float scale = 1.0f / std::sqrt(sum(squares) / shape_.hidden_size + shape_.rms_norm_eps);
    for (int i = 0; i < shape_.hidden_size; i += kLanes) {
      store(out + i, load(in + i) * scale * load(weight.data() + i));
    }
  }

  // Returns a layer's keys (kind 0) or values (kind 1) of a kv head in a span's blocks.
  Look cached(const Span& span, int index, int kind, int kv_head) const {
    const int64_t place = (static_cast<int64_t>(index) * 2 + kind) * shape_.num_kv_heads + kv_head;
    return {span.blocks, place * kBlockTokens * shape_.head_dim, shape_.head_dim};
  }

  // Rotates a token's queries and keys by the angles of its position, scales the queries, and stores keys and values.
  void keep(int index, int token) const {
    const auto [span, position] = places_[token];
    const int size = shape_.head_dim, num_heads = shape_.num_heads, num_kv_heads = shape_.num_kv_heads;
    float* heads = qkv_.row(token);
    for (int i = 0; i < num_heads + num_kv_heads; ++i) rotate(heads + i * size, position);
    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    for (int i = 0; i < num_heads * size; ++i) heads[i] *= scale;
    for (int kind = 0; kind < 2; ++kind) {
      for (int i = 0; i < num_kv_heads; ++i) {
        const float* from = heads + (num_heads + kind * num_kv_heads + i) * size;
        memcpy(cached(*span, index, kind, i).at(position), from, size * sizeof(float));
      }
    }
  }

  // Rotates a head in the half-split layout: each number of the first half is paired with one of the second half.
  void rotate(float* head, int position) const {
    const int size = shape_.head_dim, half = size / 2;
    const float *cosine = cosine_ + static_cast<int64_t>(position) * size;
    const float *sine = sine_ + static_cast<int64_t>(position) * size;
    for (int i = 0; i < half; ++i) {
      const float first = head[i], second = head[i + half];
      head[i] = first * cosine[i] - second * sine[i];
      head[i + half] = second * cosine[i] + first * sine[i];
    }
  }

  // Computes attention of all stretches. A stretch's heads are side by side in memory, so they are split among tasks
  // only if there are too few stretches.
  void look_back(int index) {
    const int num_stretches = static_cast<int>(stretches_.size()), num_kv_heads = shape_.num_kv_heads;
    if (num_stretches == 0) return;
    const int num_shares = std::clamp(16 * threads_.size() / num_stretches, 1, num_kv_heads);
    threads_.run(num_stretches * num_shares, [&](int task) {
      const int share = task % num_shares;
      const int start = num_kv_heads * share / num_shares, end = num_kv_heads * (share + 1) / num_shares;
      const Stretch& stretch = stretches_[task / num_shares];
      const Look keys = cached(*stretch.span, index, 0, start), values = cached(*stretch.span, index, 1, start);
      Ahead ahead(keys, values.offset - keys.offset, end - start, stretch.start + stretch.count);
      for (int kv_head = start; kv_head < end; ++kv_head) look_back(index, stretch, kv_head, ahead);
    });
  }

  void look_back(int index, const Stretch& stretch, int kv_head, Ahead& ahead) const {
    const int group = heads().group(), size = shape_.head_dim;
    Queries queries;
    for (int i = 0; i < stretch.count; ++i) {
      for (int head = kv_head * group; head < (kv_head + 1) * group; ++head, ++queries.count) {
        queries.query[queries.count] = qkv_.row(stretch.first_token + i) + head * size;
        queries.out[queries.count] = mixed_.row(stretch.first_token + i) + head * size;
        queries.num_keys[queries.count] = stretch.start + i + 1;
      }
    }
    thread_local std::vector<float> scores;
    const int64_t stride = (queries.most_keys() + kLanes - 1) / kLanes * kLanes + kLanes;
    if (scores.size() < static_cast<size_t>(queries.count * stride)) scores.resize(queries.count * stride);
    const Look keys = cached(*stretch.span, index, 0, kv_head), values = cached(*stretch.span, index, 1, kv_head);
    attend(queries, keys, values, scores.data(), stride, ahead);
  }

  const Shape shape_;
  std::vector<Layer> layers_;
  Matrix head_;
  std::vector<float> final_norm_;
  Rows embedding_{};
  const float *cosine_ = nullptr, *sine_ = nullptr;

  std::vector<Place> places_;
  std::vector<Stretch> stretches_;
  Table hidden_, normed_, qkv_, mixed_, gated_;
  ThreadPool threads_;
  Products products_{threads_};
};
