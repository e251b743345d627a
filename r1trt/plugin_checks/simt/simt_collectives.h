// Warp shuffles, votes, matches and reductions. None of them orders memory, as on hardware.
#pragma once

#include <cstring>

#include "simt_block.h"

namespace simt {

struct Exchange {
  uint64_t in = 0, out = 0;
  int source = 0;
};

inline Exchange& exchangeOf(Thread* thread) {
  return *static_cast<Exchange*>(thread->payload);
}

template <class Visit>
SIMT_UNSANITIZED void forEachLane(unsigned mask, Visit visit) {
  for (; mask != 0; mask &= mask - 1) visit(__builtin_ctz(mask));
}

SIMT_UNSANITIZED inline void shuffleLeader(Thread* const* lanes, unsigned mask) {
  constexpr uint64_t kUndefined = 0xDEADBEEFDEADBEEFULL;  // a lane outside the mask was asked
  forEachLane(mask, [&](int lane) __attribute__((no_sanitize("address", "thread", "undefined"))) {
    Exchange& mine = exchangeOf(lanes[lane]);
    bool defined = (mask >> mine.source & 1U) != 0;
    mine.out = defined ? exchangeOf(lanes[mine.source]).in : kUndefined;
  });
}

SIMT_UNSANITIZED inline void voteLeader(Thread* const* lanes, unsigned mask) {
  unsigned votes = 0;
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    int lane = __builtin_ctz(rest);
    if (exchangeOf(lanes[lane]).in != 0) votes |= 1U << lane;
  }
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) exchangeOf(lanes[__builtin_ctz(rest)]).out = votes;
}

SIMT_UNSANITIZED inline void matchLeader(Thread* const* lanes, unsigned mask) {
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    Exchange& mine = exchangeOf(lanes[__builtin_ctz(rest)]);
    unsigned peers = 0;
    for (unsigned others = mask; others != 0; others &= others - 1) {
      int lane = __builtin_ctz(others);
      if (exchangeOf(lanes[lane]).in == mine.in) peers |= 1U << lane;
    }
    mine.out = peers;
  }
}

// Of 32 bits, as hardware has it.
SIMT_UNSANITIZED inline void maximumLeader(Thread* const* lanes, unsigned mask) {
  uint64_t largest = 0;
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    uint64_t const value = exchangeOf(lanes[__builtin_ctz(rest)]).in;
    largest = value > largest ? value : largest;
  }
  for (unsigned rest = mask; rest != 0; rest &= rest - 1)
    exchangeOf(lanes[__builtin_ctz(rest)]).out = largest;
}

template <class T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable<T>::value, "type of a shuffle");
  Exchange exchange;
  exchange.source = source;
  std::memcpy(&exchange.in, &value, sizeof value);
  collective(Op::kShuffle, mask, &exchange, shuffleLeader);
  std::memcpy(&value, &exchange.out, sizeof value);
  return value;
}

inline unsigned vote(unsigned mask, bool predicate) {
  Exchange exchange;
  exchange.in = predicate ? 1 : 0;
  collective(Op::kVote, mask, &exchange, voteLeader);
  return static_cast<unsigned>(exchange.out);
}

inline unsigned maximum(unsigned mask, unsigned value) {
  Exchange exchange;
  exchange.in = value;
  collective(Op::kReduce, mask, &exchange, maximumLeader);
  return static_cast<unsigned>(exchange.out);
}

template <class T>
unsigned matchAny(unsigned mask, T value) {
  Exchange exchange;
  std::memcpy(&exchange.in, &value, sizeof value);
  collective(Op::kMatch, mask, &exchange, matchLeader);
  return static_cast<unsigned>(exchange.out);
}

// First lane of the calling lane's segment of `width` lanes.
inline int segmentStart(int width) {
  return self().lane & ~(width - 1);
}

}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return simt::shuffle(mask, value, simt::segmentStart(width) | (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  int lane = simt::self().lane, source = lane ^ lane_mask;
  bool outside = (source & ~(width - 1)) > simt::segmentStart(width);
  return simt::shuffle(mask, value, outside ? lane : source);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  int lane = simt::self().lane, source = lane - static_cast<int>(delta);
  return simt::shuffle(mask, value, source < simt::segmentStart(width) ? lane : source);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  int lane = simt::self().lane, source = lane + static_cast<int>(delta);
  return simt::shuffle(mask, value, source >= simt::segmentStart(width) + width ? lane : source);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return simt::vote(mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return simt::vote(mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return simt::vote(mask, predicate != 0) == mask;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  return simt::matchAny(mask, value);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  return simt::maximum(mask, value);
}
inline void __syncwarp(unsigned mask = simt::kFullMask) {
  simt::syncWarp(mask);
}
