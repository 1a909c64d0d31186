// Memory for weights and activations.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

// Zeroed memory, in large pages where the system has them, so that reading weights needs few address look-ups.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t num_bytes) : size_((num_bytes + kPage - 1) / kPage * kPage) {
    if (size_ == 0) return;
    // Maps one page more than needed and unmaps what lies outside the aligned part.
    const size_t mapped = size_ + kPage;
    void* found = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    const auto first = reinterpret_cast<uintptr_t>(found);
    const uintptr_t aligned = (first + kPage - 1) / kPage * kPage;
    if (aligned > first) munmap(found, aligned - first);
    if (first + mapped > aligned + size_) {
      munmap(reinterpret_cast<void*>(aligned + size_), first + mapped - aligned - size_);
    }
    data_ = reinterpret_cast<void*>(aligned);
    madvise(data_, size_, MADV_HUGEPAGE);
  }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) munmap(data_, size_);
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t size() const { return size_; }

 private:
  static constexpr size_t kPage = size_t{1} << 21;

  void* data_ = nullptr;
  size_t size_ = 0;
};
