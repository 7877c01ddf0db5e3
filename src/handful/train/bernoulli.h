// Masks of dropout: the numbers that PyTorch's generator gives, many at a time.
//
// PyTorch draws a mask element by element: two words of a Mersenne twister (Matsumoto
// and Nishimura, 1998), put together to 53 bits and compared with the probability. Here
// the twister goes on by whole states, and the loops are such that a compiler makes
// vectors of them. The masks and the generator's state after them are the same; who
// loads the library compares them once before anybody uses it.

#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/MT19937RNGEngine.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>

// Compiled for several kinds of processors; which one is there is seen at run time.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HANDFUL_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define HANDFUL_CLONES
#endif

namespace handful {

constexpr int kWords = 624, kAhead = 397;
constexpr int64_t kBlock = 512;  // elements that are drawn at a time

inline uint32_t mix(uint32_t first, uint32_t second, uint32_t far) {
  const uint32_t bits = (first & 0x80000000u) | (second & 0x7fffffffu);
  return far ^ (bits >> 1) ^ (-(second & 1u) & 0x9908b0dfu);
}

// Makes the next 624 words of those before.
HANDFUL_CLONES void go_on(uint32_t* state) {
  for (int i = 0; i < kWords - kAhead; ++i) {
    state[i] = mix(state[i], state[i + 1], state[i + kAhead]);
  }
  for (int i = kWords - kAhead; i < kWords - 1; ++i) {
    state[i] = mix(state[i], state[i + 1], state[i + kAhead - kWords]);
  }
  state[kWords - 1] = mix(state[kWords - 1], state[0], state[kAhead - 1]);
}

HANDFUL_CLONES void temper(const uint32_t* state, uint32_t* words, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t word = state[i];
    word ^= word >> 11;
    word ^= (word << 7) & 0x9d2c5680u;
    word ^= (word << 15) & 0xefc60000u;
    words[i] = word ^ (word >> 18);
  }
}

// The first word of a pair is the higher half of its 53 bits.
template <typename Number>
inline void compare(const uint32_t* words, int64_t below, Number* mask, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const auto high = static_cast<int64_t>(words[2 * i] & 0x1fffffu);
    const auto drawn = (high << 32) | static_cast<int64_t>(words[2 * i + 1]);
    mask[i] = drawn < below ? Number(1) : Number(0);
  }
}

HANDFUL_CLONES void compare_floats(const uint32_t* words, int64_t below, float* mask,
                                   int64_t count) {
  compare(words, below, mask, count);
}

HANDFUL_CLONES void compare_doubles(const uint32_t* words, int64_t below, double* mask,
                                    int64_t count) {
  compare(words, below, mask, count);
}

// The words of an engine, in its order.
class Words {
 public:
  explicit Words(at::mt19937_data_pod& data) : data_(data) {}

  void take(uint32_t* words, int64_t count) {
    while (count > 0) {
      if (data_.left_ == 1) {  // PyTorch counts one more than there are
        go_on(data_.state_.data());
        data_.left_ = kWords + 1;
        data_.next_ = 0;
      }
      const auto part = std::min<int64_t>(count, data_.left_ - 1);
      temper(data_.state_.data() + data_.next_, words, part);
      data_.left_ -= static_cast<int>(part);
      data_.next_ += static_cast<uint32_t>(part);
      words += part;
      count -= part;
    }
  }

 private:
  at::mt19937_data_pod& data_;
};

// Fills a tensor as `bernoulli_` does from the global generator; false if it can't.
inline bool fill_mask(const at::Tensor& mask, double probability) {
  const auto type = mask.scalar_type();
  const bool is_known = type == at::kFloat || type == at::kDouble;
  if (!mask.is_cpu() || !is_known || !mask.is_contiguous()) return false;
  if (!(probability >= 0 && probability <= 1)) return false;
  const auto below = static_cast<int64_t>(std::ceil(std::ldexp(probability, 53)));
  auto generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  auto* owner = generator.get<at::CPUGeneratorImpl>();
  auto engine = owner->engine();
  auto data = engine.data();
  Words source(data);
  uint32_t words[2 * kBlock];
  for (int64_t done = 0, all = mask.numel(); done < all; done += kBlock) {
    const auto count = std::min(kBlock, all - done);
    source.take(words, 2 * count);
    if (type == at::kFloat) {
      compare_floats(words, below, mask.data_ptr<float>() + done, count);
    } else {
      compare_doubles(words, below, mask.data_ptr<double>() + done, count);
    }
  }
  engine.set_data(data);
  owner->set_engine(engine);
  return true;
}

}  // namespace handful
