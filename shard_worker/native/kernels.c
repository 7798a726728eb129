/* The inner loops of a search, over arrays that Python owns. Nothing here allocates for longer than
 * a call, keeps state or knows Python: ctypes calls these functions without the interpreter's lock.
 *
 * What each returns is what kernels.py says, and what its callers compute without them. A processor
 * with VPOPCNTDQ counts 64 bytes of bits at once; AVX2 counts 32 by a table of half bytes; POPCNT
 * counts 8; any C compiler does the rest.
 */

#define _FILE_OFFSET_BITS 64 /* calls have the names that Python's have */

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define X86 1
#endif

/* Of the functions and their arguments: kernels.py refuses another. */
int32_t bitsift_version(void) { return 7; }

enum { BLOCK = 2048, GROUP = 64, ROW_BYTES_MAX = 512 };
/* Rows that are compared with each query of a call before the next ones: of 1,024 bits 256 KB, which
 * stay in the second cache. Marks are looked at for 64 rows at a time. */

/* --- distances of 64 rows or fewer to one query ----------------------------------------------- */

typedef void distances_fn(const uint8_t *bits, int rows, int row_bytes, const uint8_t *query, uint16_t *out);

static inline __attribute__((always_inline)) void by_words(
    const uint8_t *bits, int rows, int row_bytes, const uint8_t *query, uint16_t *out) {
  int whole = row_bytes & ~7, rest = row_bytes & 7;
  for (int row = 0; row < rows; row++) {
    const uint8_t *one = bits + (size_t)row * row_bytes;
    uint64_t a, b, sum = 0;
    for (int at = 0; at < whole; at += 8) {
      memcpy(&a, one + at, 8);
      memcpy(&b, query + at, 8);
      sum += (uint64_t)__builtin_popcountll(a ^ b);
    }
    if (rest) {
      a = b = 0;
      memcpy(&a, one + whole, (size_t)rest);
      memcpy(&b, query + whole, (size_t)rest);
      sum += (uint64_t)__builtin_popcountll(a ^ b);
    }
    out[row] = (uint16_t)sum;
  }
}

static void portable(const uint8_t *bits, int rows, int row_bytes, const uint8_t *query, uint16_t *out) {
  by_words(bits, rows, row_bytes, query, out);
}

#ifdef X86
__attribute__((target("popcnt"))) static void with_popcnt(
    const uint8_t *bits, int rows, int row_bytes, const uint8_t *query, uint16_t *out) {
  switch (row_bytes) { /* widths of common models: the compiler unrolls them */
    case 32: by_words(bits, rows, 32, query, out); break;
    case 64: by_words(bits, rows, 64, query, out); break;
    case 48: by_words(bits, rows, 48, query, out); break;
    case 96: by_words(bits, rows, 96, query, out); break;
    case 128: by_words(bits, rows, 128, query, out); break;
    default: by_words(bits, rows, row_bytes, query, out);
  }
}

#define AVX2 __attribute__((target("avx2,popcnt")))
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512vpopcntdq")))
#define INLINE static inline __attribute__((always_inline))

/* How many ones each byte has. */
AVX2 INLINE __m256i ones_of(__m256i bits) {
  const __m256i half = _mm256_set1_epi8(15);
  const __m256i of_half = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  __m256i low = _mm256_and_si256(bits, half), high = _mm256_and_si256(_mm256_srli_epi16(bits, 4), half);
  return _mm256_add_epi8(_mm256_shuffle_epi8(of_half, low), _mm256_shuffle_epi8(of_half, high));
}

/* The counts of a row in four parts; of its last bytes `there` says which. */
AVX2 INLINE __m256i quarters_of(const uint8_t *row, int row_bytes, const __m256i *query, __m256i there) {
  __m256i sum = _mm256_setzero_si256(); /* of at most 16 vectors, in bytes: 128 */
  int at = 0;
  for (; at + 32 <= row_bytes; at += 32) {
    __m256i differ = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(row + at)), query[at / 32]);
    sum = _mm256_add_epi8(sum, ones_of(differ));
  }
  if (at < row_bytes) {
    __m256i differ = _mm256_xor_si256(_mm256_maskload_epi64((const long long *)(row + at), there), query[at / 32]);
    sum = _mm256_add_epi8(sum, ones_of(differ));
  }
  return _mm256_sad_epu8(sum, _mm256_setzero_si256());
}

/* Have the processor fetch what is read soon: by itself it stops at the end of each page. A scan of
 * 128 bytes a row took 8.7 ns a row without it, 7.6 with it (Zen 3). Not in the wide ways, whose
 * processors fetch by themselves: 3.9 ns became 6.8 (Zen 4). */
static inline __attribute__((always_inline)) void fetch(const uint8_t *at, int size) {
  enum { AHEAD = 2048, LINE = 64 };
  for (int line = 0; line < size; line += LINE) __builtin_prefetch(at + AHEAD + line);
}

/* Of four rows, whose counts are 16 bits each of every lane. */
AVX2 INLINE void put_four(__m256i counts, uint16_t *out) {
  __m128i sums = _mm_add_epi16(_mm256_castsi256_si128(counts), _mm256_extracti128_si256(counts, 1));
  _mm_storel_epi64((__m128i *)out, _mm_add_epi16(sums, _mm_unpackhi_epi64(sums, sums)));
}

AVX2 INLINE void by_fours(
    const uint8_t *bits, int rows, int row_bytes, const uint8_t *query, uint16_t *out) {
  __m256i asked[ROW_BYTES_MAX / 32];
  uint8_t padded[ROW_BYTES_MAX] = {0};
  memcpy(padded, query, (size_t)row_bytes);
  for (int at = 0; at < row_bytes; at += 32) asked[at / 32] = _mm256_loadu_si256((const __m256i *)(padded + at));
  const int words = row_bytes % 32 / 8;
  const __m256i there = _mm256_setr_epi64x(-(words > 0), -(words > 1), -(words > 2), 0);
  int row = 0;
  for (; row + 4 <= rows; row += 4) {
    __m256i counts = _mm256_setzero_si256();
    fetch(bits + (size_t)row * row_bytes, 4 * row_bytes);
    for (int i = 3; i >= 0; i--) {
      __m256i parts = quarters_of(bits + (size_t)(row + i) * row_bytes, row_bytes, asked, there);
      counts = _mm256_add_epi64(_mm256_slli_epi64(counts, 16), parts);
    }
    put_four(counts, out + row);
  }
  if (row < rows) by_words(bits + (size_t)row * row_bytes, rows - row, row_bytes, query, out + row);
}

/* Rows of 48 bytes: two fill three vectors, of which they share the second. */
AVX2 static void pairs_of_48_bytes(const uint8_t *bits, int rows, const uint8_t *query, uint16_t *out) {
  __m128i thirds[3];
  for (int i = 0; i < 3; i++) thirds[i] = _mm_loadu_si128((const __m128i *)(query + 16 * i));
  const __m256i asked[3] = {
      _mm256_set_m128i(thirds[1], thirds[0]), _mm256_set_m128i(thirds[0], thirds[2]),
      _mm256_set_m128i(thirds[2], thirds[1])};
  const __m256i second = _mm256_setr_epi64x(0, 0, 16, 16);
  int row = 0;
  for (; row + 4 <= rows; row += 4) {
    __m256i counts = _mm256_setzero_si256();
    fetch(bits + (size_t)row * 48, 4 * 48);
    for (int i = 2; i >= 0; i -= 2) {
      __m256i sums[3];
      for (int j = 0; j < 3; j++) {
        const __m256i *at = (const __m256i *)(bits + (size_t)(row + i) * 48 + 32 * j);
        sums[j] = _mm256_sad_epu8(ones_of(_mm256_xor_si256(_mm256_loadu_si256(at), asked[j])), _mm256_setzero_si256());
      }
      __m256i both = _mm256_add_epi64(sums[0], _mm256_slli_epi64(sums[2], 16));
      both = _mm256_add_epi64(both, _mm256_sllv_epi64(sums[1], second));
      counts = _mm256_add_epi64(_mm256_slli_epi64(counts, 32), both);
    }
    put_four(counts, out + row);
  }
  if (row < rows) by_words(bits + (size_t)row * 48, rows - row, 48, query, out + row);
}

AVX2 static void with_avx2(
    const uint8_t *bits, int rows, int row_bytes, const uint8_t *query, uint16_t *out) {
  if (row_bytes % 8) {
    by_words(bits, rows, row_bytes, query, out);
    return;
  }
  switch (row_bytes) { /* whole rows of 512, 768 dimensions; planes of 768, 1,024 and 1,536 */
    case 48: pairs_of_48_bytes(bits, rows, query, out); break;
    case 32: by_fours(bits, rows, 32, query, out); break;
    case 64: by_fours(bits, rows, 64, query, out); break;
    case 96: by_fours(bits, rows, 96, query, out); break;
    case 160: by_fours(bits, rows, 160, query, out); break;
    default: by_fours(bits, rows, row_bytes, query, out);
  }
}

/* The counts of a row in eight parts. */
WIDE INLINE __m512i parts_of(const uint8_t *row, int row_bytes, const __m512i *query) {
  __m512i sum = _mm512_setzero_si512();
  int at = 0;
  for (; at + 64 <= row_bytes; at += 64) {
    __m512i differ = _mm512_xor_si512(_mm512_loadu_si512(row + at), query[at / 64]);
    sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(differ));
  }
  if (at < row_bytes) {
    __mmask64 there = ~0ULL >> (64 - (row_bytes - at));
    __m512i differ = _mm512_xor_si512(_mm512_maskz_loadu_epi8(there, row + at), query[at / 64]);
    sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(differ));
  }
  return sum;
}

/* Lanes 2i of both, and lanes 2i + 1 of both, added. */
WIDE INLINE __m512i pairs(__m512i one, __m512i other) {
  return _mm512_add_epi64(_mm512_unpacklo_epi64(one, other), _mm512_unpackhi_epi64(one, other));
}
WIDE INLINE __m512i fours(__m512i one, __m512i other) {
  return _mm512_add_epi64(_mm512_shuffle_i64x2(one, other, 0x88), _mm512_shuffle_i64x2(one, other, 0xdd));
}

WIDE INLINE void by_eights(
    const uint8_t *bits, int rows, int row_bytes, const uint8_t *query, uint16_t *out) {
  __m512i asked[ROW_BYTES_MAX / 64], sums[8];
  uint8_t padded[ROW_BYTES_MAX] = {0};
  memcpy(padded, query, (size_t)row_bytes);
  for (int at = 0; at < row_bytes; at += 64) asked[at / 64] = _mm512_loadu_si512(padded + at);
  int row = 0;
  for (; row + 8 <= rows; row += 8) {
    for (int i = 0; i < 8; i++) sums[i] = parts_of(bits + (size_t)(row + i) * row_bytes, row_bytes, asked);
    __m512i low = fours(pairs(sums[0], sums[1]), pairs(sums[2], sums[3]));
    __m512i high = fours(pairs(sums[4], sums[5]), pairs(sums[6], sums[7]));
    _mm_storeu_si128((__m128i *)(out + row), _mm512_cvtepi64_epi16(fours(low, high)));
  }
  for (; row < rows; row++)
    out[row] = (uint16_t)_mm512_reduce_add_epi64(parts_of(bits + (size_t)row * row_bytes, row_bytes, asked));
}

/* Rows of 48 bytes: eight of them fill six vectors. The 48 counts, of at most 64, become bytes of one
 * vector; those of each row are put side by side there, and added. */
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vpopcntdq,avx512vbmi"))) static void of_48_bytes(
    const uint8_t *bits, int rows, const uint8_t *query, uint16_t *out) {
  /* Of the word 6 row + i the count is byte word / 8 of lane word % 8. */
#define BYTES(row) _(row, 0), _(row, 1), _(row, 2), _(row, 3), _(row, 4), _(row, 5), 0, 0
#define _(row, i) (6 * row + i) % 8 * 8 + (6 * row + i) / 8
  static const uint8_t places[64] = {BYTES(0), BYTES(1), BYTES(2), BYTES(3), BYTES(4), BYTES(5), BYTES(6), BYTES(7)};
#undef _
#undef BYTES
  const __m512i order = _mm512_loadu_si512(places), once = _mm512_maskz_loadu_epi64(0x3F, query);
  const __m512i asked[3] = {
      _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 0, 1), once),
      _mm512_permutexvar_epi64(_mm512_setr_epi64(2, 3, 4, 5, 0, 1, 2, 3), once),
      _mm512_permutexvar_epi64(_mm512_setr_epi64(4, 5, 0, 1, 2, 3, 4, 5), once)};
  int row = 0;
  for (; row + 8 <= rows; row += 8) {
    __m512i counts = _mm512_setzero_si512();
    for (int i = 5; i >= 0; i--) {
      __m512i differ = _mm512_xor_si512(_mm512_loadu_si512(bits + (size_t)row * 48 + 64 * i), asked[i % 3]);
      counts = _mm512_or_si512(_mm512_slli_epi64(counts, 8), _mm512_popcnt_epi64(differ));
    }
    __m512i of_rows = _mm512_maskz_permutexvar_epi8(0x3F3F3F3F3F3F3F3FULL, order, counts);
    __m512i sums = _mm512_sad_epu8(of_rows, _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)(out + row), _mm512_cvtepi64_epi16(sums));
  }
  if (row < rows) by_words(bits + (size_t)row * 48, rows - row, 48, query, out + row);
}

static int has_vbmi = 0;

WIDE static void with_vpopcnt(
    const uint8_t *bits, int rows, int row_bytes, const uint8_t *query, uint16_t *out) {
  if (row_bytes == 48 && has_vbmi) {
    of_48_bytes(bits, rows, query, out);
    return;
  }
  switch (row_bytes) {
    case 48: by_eights(bits, rows, 48, query, out); break;
    case 96: by_eights(bits, rows, 96, query, out); break;
    case 128: by_eights(bits, rows, 128, query, out); break;
    default: by_eights(bits, rows, row_bytes, query, out);
  }
}

/* Rows of 32 bytes, two to a vector. */
WIDE static void of_32_bytes(const uint8_t *bits, int rows, const uint8_t *query, uint16_t *out) {
  __m512i asked = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)query));
  int row = 0;
  for (; row + 8 <= rows; row += 8) {
    __m512i counts[4];
    for (int i = 0; i < 4; i++)
      counts[i] = _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_loadu_si512(bits + (row + 2 * i) * 32), asked));
    __m512i sums = fours(pairs(counts[0], counts[1]), pairs(counts[2], counts[3]));
    const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    _mm_storeu_si128((__m128i *)(out + row), _mm_shuffle_epi8(_mm512_cvtepi64_epi16(sums), order));
  }
  if (row < rows) by_words(bits + row * 32, rows - row, 32, query, out + row);
}

/* Rows of 32 bytes and `rest_bytes`, a multiple of 32, in two planes: two rows at a time, so that no
 * vector is half empty. Where that multiple is odd, the rest of two rows meets in the middle. */
WIDE INLINE void of_two_planes(
    const uint8_t *first, const uint8_t *rest, int rows, int rest_bytes, const uint8_t *query, uint16_t *out) {
  int whole = rest_bytes / 64, odd = rest_bytes % 64 != 0, row = 0;
  __m512i one[ROW_BYTES_MAX / 64], other[ROW_BYTES_MAX / 64], sums[8];
  __m256i half = _mm256_loadu_si256((const __m256i *)query);
  __m512i near = _mm512_broadcast_i64x4(half), middle = near;
  for (int i = 0; i < whole; i++) {
    one[i] = _mm512_loadu_si512(query + 32 + 64 * i);
    other[i] = odd ? _mm512_loadu_si512(query + 64 + 64 * i) : one[i];
  }
  if (odd) {
    __m256i last = _mm256_loadu_si256((const __m256i *)(query + rest_bytes));
    middle = _mm512_inserti64x4(
        _mm512_castsi256_si512(last), _mm256_loadu_si256((const __m256i *)(query + 32)), 1);
  }
  for (; row + 8 <= rows; row += 8) {
    for (int i = 0; i < 8; i += 2) {
      const uint8_t *at = rest + (size_t)(row + i) * (size_t)rest_bytes;
      __m512i both = _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_loadu_si512(first + (row + i) * 32), near));
      __m512i a = _mm512_setzero_si512(), b = a;
      for (int j = 0; j < whole; j++, at += 64)
        a = _mm512_add_epi64(a, _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_loadu_si512(at), one[j])));
      if (odd) {
        both = _mm512_add_epi64(
            both, _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_loadu_si512(at), middle)));
        at += 64;
      }
      for (int j = 0; j < whole; j++, at += 64)
        b = _mm512_add_epi64(b, _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_loadu_si512(at), other[j])));
      sums[i] = _mm512_mask_add_epi64(a, 0x0F, a, both);
      sums[i + 1] = _mm512_mask_add_epi64(b, 0xF0, b, both);
    }
    __m512i low = fours(pairs(sums[0], sums[1]), pairs(sums[2], sums[3]));
    __m512i high = fours(pairs(sums[4], sums[5]), pairs(sums[6], sums[7]));
    _mm_storeu_si128((__m128i *)(out + row), _mm512_cvtepi64_epi16(fours(low, high)));
  }
  for (; row < rows; row++) {
    uint16_t more;
    by_words(first + row * 32, 1, 32, query, out + row);
    by_words(rest + (size_t)row * (size_t)rest_bytes, 1, rest_bytes, query + 32, &more);
    out[row] = (uint16_t)(out[row] + more);
  }
}

WIDE static void with_two_planes(
    const uint8_t *first, const uint8_t *rest, int rows, int rest_bytes, const uint8_t *query, uint16_t *out) {
  switch (rest_bytes) { /* 768, 1,024 and 1,536 dimensions */
    case 64: of_two_planes(first, rest, rows, 64, query, out); break;
    case 96: of_two_planes(first, rest, rows, 96, query, out); break;
    case 160: of_two_planes(first, rest, rows, 160, query, out); break;
    default: of_two_planes(first, rest, rows, rest_bytes, query, out);
  }
}
#endif

/* --- which of 64 distances are below a limit -------------------------------------------------- */

typedef uint64_t below_fn(const uint16_t *distances, int rows, int limit);

static uint64_t below_one_by_one(const uint16_t *distances, int rows, int limit) {
  uint64_t found = 0;
  for (int row = 0; row < rows; row++) found |= (uint64_t)(distances[row] < limit) << row;
  return found;
}

#ifdef X86
AVX2 static uint64_t below_by_sixteens(const uint16_t *distances, int rows, int limit) {
  if (rows < GROUP || limit > UINT16_MAX || limit <= 0) return below_one_by_one(distances, rows, limit);
  const __m256i most = _mm256_set1_epi16((short)(limit - 1));
  uint64_t found = 0;
  for (int at = 0; at < GROUP; at += 32) {
    __m256i one = _mm256_loadu_si256((const __m256i *)(distances + at));
    __m256i other = _mm256_loadu_si256((const __m256i *)(distances + at + 16));
    one = _mm256_cmpeq_epi16(_mm256_min_epu16(one, most), one);
    other = _mm256_cmpeq_epi16(_mm256_min_epu16(other, most), other);
    __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi16(one, other), 0xD8);
    found |= (uint64_t)(uint32_t)_mm256_movemask_epi8(both) << at;
  }
  return found;
}

WIDE static uint64_t below_at_once(const uint16_t *distances, int rows, int limit) {
  if (rows < GROUP || limit > UINT16_MAX) return below_one_by_one(distances, rows, limit);
  __m512i than = _mm512_set1_epi16((short)limit);
  uint64_t low = _mm512_cmplt_epu16_mask(_mm512_loadu_si512(distances), than);
  uint64_t high = _mm512_cmplt_epu16_mask(_mm512_loadu_si512(distances + 32), than);
  return low | high << 32;
}
#endif

/* --- which way this processor goes ------------------------------------------------------------- */

typedef void products_fn(
    const int8_t *codes, int64_t rows, int64_t stride, int32_t width, const double *weights, double offset,
    float *out);
typedef int64_t codes_fn(
    const float *vector, int32_t n, float norm, const float *low, const float *step, int8_t *code);

typedef struct {
  const char *name;
  distances_fn *distances;
  distances_fn *of_one_row;
  below_fn *below;
  products_fn *products;
  codes_fn *codes;
} Way;

static Way way; /* chosen at the end of this file */

/* --- bits in two planes ----------------------------------------------------------------------- */

/* planes.py: of each row the first bytes, and the rest elsewhere, or nowhere. */
typedef struct {
  const uint8_t *first, *rest;
  int32_t first_bytes, rest_bytes;
} Planes;

static void distances_from(const Planes *bits, int64_t row, int rows, const uint8_t *query, uint16_t *out) {
  const uint8_t *first = bits->first + (size_t)row * (size_t)bits->first_bytes;
  const uint8_t *rest = bits->rest + (size_t)row * (size_t)bits->rest_bytes;
#ifdef X86
  if (way.distances == with_vpopcnt && bits->first_bytes == 32) {
    if (!bits->rest_bytes) { of_32_bytes(first, rows, query, out); return; }
    if (bits->rest_bytes % 32 == 0) { with_two_planes(first, rest, rows, bits->rest_bytes, query, out); return; }
  }
#endif
  way.distances(first, rows, bits->first_bytes, query, out);
  if (bits->rest_bytes) {
    uint16_t more[GROUP];
    way.distances(rest, rows, bits->rest_bytes, query + bits->first_bytes, more);
    for (int i = 0; i < rows; i++) out[i] = (uint16_t)(out[i] + more[i]);
  }
}

static int32_t row_bytes_of(const Planes *bits) { return bits->first_bytes + bits->rest_bytes; }

/* Rows of both planes, one behind the other. */
void bitsift_gather(
    const uint8_t *first, int32_t first_bytes, const uint8_t *rest, int32_t rest_bytes, const int64_t *rows,
    int64_t n, uint8_t *out) {
  enum { AHEAD = 16 };
  for (int64_t i = 0; i < n; i++, out += first_bytes + rest_bytes) {
    if (i + AHEAD < n) {
      __builtin_prefetch(first + (size_t)rows[i + AHEAD] * (size_t)first_bytes);
      __builtin_prefetch(rest + (size_t)rows[i + AHEAD] * (size_t)rest_bytes);
    }
    memcpy(out, first + (size_t)rows[i] * (size_t)first_bytes, (size_t)first_bytes);
    memcpy(out + first_bytes, rest + (size_t)rows[i] * (size_t)rest_bytes, (size_t)rest_bytes);
  }
}

/* --- the nearest rows ------------------------------------------------------------------------- */

/* The `count` rows nearest to one query of those seen so far, and some more, in the order in which
 * they were seen. A row that is seen later must be nearer than `limit`: of equal distances the first
 * are kept. */
typedef struct {
  int64_t count, held, room;
  int limit;
  uint16_t *distances;
  int64_t *positions;
} Nearest;

/* Leave out what is not among the `count` nearest. `tally` has room for a count of each distance. */
static void cut(Nearest *kept, int64_t *tally, int bits) {
  if (kept->held <= kept->count) return;
  memset(tally, 0, sizeof(int64_t) * (size_t)(bits + 1));
  for (int64_t i = 0; i < kept->held; i++) tally[kept->distances[i]]++;
  int64_t up_to = 0;
  int last = 0;
  while ((up_to += tally[last]) < kept->count) last++;
  int64_t of_last = kept->count - (up_to - tally[last]), held = 0;
  for (int64_t i = 0; i < kept->held; i++) {
    uint16_t distance = kept->distances[i];
    if (distance > last || (distance == last && of_last-- <= 0)) continue;
    kept->distances[held] = distance;
    kept->positions[held++] = kept->positions[i];
  }
  kept->held = held;
  kept->limit = last;
}

static uint64_t marks_of(const uint8_t *marks, int64_t row, int rows) {
  uint64_t found = 0;
  if (!marks) return ~0ULL >> (GROUP - rows);
  if (row % 8 == 0) {
    memcpy(&found, marks + row / 8, (size_t)((rows + 7) / 8));
  } else { /* ranges of lists begin anywhere */
    for (int i = 0; i < rows; i++)
      found |= (uint64_t)(marks[(row + i) >> 3] >> ((row + i) & 7) & 1) << i;
  }
  return found & ~0ULL >> (GROUP - rows);
}

/* Consider rows `first` ... `last` for one query. */
static void consider(
    Nearest *kept, int64_t *tally, const Planes *bits, int64_t first, int64_t last, const uint8_t *query,
    const uint8_t *marks) {
  uint16_t distances[GROUP];
  for (int64_t row = first; row < last; row += GROUP) {
    int rows = last - row < GROUP ? (int)(last - row) : GROUP;
    uint64_t wanted = marks_of(marks, row, rows);
    if (!wanted) continue;
    distances_from(bits, row, rows, query, distances);
    wanted &= way.below(distances, rows, kept->limit);
    int64_t held = kept->held;
    while (wanted) {
      int i = __builtin_ctzll(wanted);
      wanted &= wanted - 1;
      kept->distances[held] = distances[i];
      kept->positions[held++] = row + i;
    }
    kept->held = held;
    if (held + GROUP > kept->room) cut(kept, tally, row_bytes_of(bits) * 8);
  }
}

enum { SAMPLES = 256, SAMPLED = 8, SAMPLED_MIN = 2000 };
/* Where many rows are kept, some at so many places say before the scan how near they will be. */

/* Count the distances of some rows from `row` on that are marked. */
static void sample(
    int64_t *tally, const Planes *bits, int64_t row, const uint8_t *query, const uint8_t *marks) {
  uint64_t wanted = marks_of(marks, row, SAMPLED);
  uint16_t distances[GROUP];
  distances_from(bits, row, SAMPLED, query, distances);
  for (int j = 0; j < SAMPLED; j++) tally[distances[j]] += (int64_t)(wanted >> j & 1);
}

/* A distance below which some more than a `share` of the samples lie; without bound where too few do. */
static int limit_of(const int64_t *tally, int bits, double share) {
  double enough = 1.1 * share + 2 * sqrt(share);
  int64_t seen = 0;
  int limit = 0;
  while (limit <= bits && (double)seen <= enough) seen += tally[limit++];
  return (double)seen > enough ? limit : UINT16_MAX + 1;
}

/* A distance below which some more than `count` of the `rows` rows are likely to be. */
static int likely_limit(const Planes *bits, int64_t rows, const uint8_t *query, const uint8_t *marks, int64_t count) {
  int64_t tally[ROW_BYTES_MAX * 8 + 1] = {0};
  for (int64_t i = 0; i < SAMPLES; i++)
    sample(tally, bits, (rows - SAMPLED) * i / (SAMPLES - 1), query, marks);
  return limit_of(tally, row_bytes_of(bits) * 8, (double)count / (double)rows * SAMPLES * SAMPLED);
}

/* The same of the rows of some lists. */
static int likely_limit_in(
    const Planes *bits, const int64_t *starts, const int64_t *lists, int64_t nprobe, int64_t rows,
    const uint8_t *query, const uint8_t *marks, int64_t count) {
  int64_t tally[ROW_BYTES_MAX * 8 + 1] = {0}, next = 0, sampled = 0;
  for (int64_t i = 0; i < nprobe; i++) {
    int64_t first = starts[lists[i]], size = starts[lists[i] + 1] - first;
    for (; next + SAMPLED <= size; next += rows / SAMPLES, sampled += SAMPLED)
      sample(tally, bits, first + next, query, marks);
    next = next > size ? next - size : 0;
  }
  return limit_of(tally, row_bytes_of(bits) * 8, (double)count / (double)rows * (double)sampled);
}

/* Of the rows that were kept by their first bytes, compare the rest as well, and keep `count`. */
static void compare_rest(Nearest *kept, int64_t *tally, const Planes *bits, const uint8_t *query, int64_t count) {
  const uint8_t *asked = query + bits->first_bytes;
  const size_t width = (size_t)bits->rest_bytes;
  enum { AHEAD = 16 };
  cut(kept, tally, bits->first_bytes * 8);
  for (int64_t i = 0; i < kept->held; i++) {
    if (i + AHEAD < kept->held)
      for (size_t at = 0; at < width; at += 64)
        __builtin_prefetch(bits->rest + (size_t)kept->positions[i + AHEAD] * width + at);
    uint16_t more;
    way.of_one_row(bits->rest + (size_t)kept->positions[i] * width, 1, bits->rest_bytes, asked, &more);
    kept->distances[i] = (uint16_t)(kept->distances[i] + more);
  }
  kept->count = count;
}

static int prepare(Nearest *kept, int64_t count) {
  int64_t room = 2 * count + 2 * GROUP;
  kept->count = count, kept->held = 0, kept->room = room, kept->limit = UINT16_MAX + 1;
  kept->distances = malloc((size_t)room * sizeof(uint16_t));
  kept->positions = malloc((size_t)room * sizeof(int64_t));
  return kept->distances && kept->positions;
}

static void release(Nearest *kept) {
  free(kept->distances);
  free(kept->positions);
}

/* Write them by (distance, the order in which they were seen); behind them INT32_MAX and -1. */
static void put(Nearest *kept, int64_t *tally, int bits, int32_t *distances, int64_t *positions) {
  cut(kept, tally, bits);
  memset(tally, 0, sizeof(int64_t) * (size_t)(bits + 2));
  for (int64_t i = 0; i < kept->held; i++) tally[kept->distances[i] + 1]++;
  for (int i = 0; i <= bits; i++) tally[i + 1] += tally[i];
  for (int64_t i = 0; i < kept->held; i++) {
    int64_t at = tally[kept->distances[i]]++;
    distances[at] = kept->distances[i];
    positions[at] = kept->positions[i];
  }
  for (int64_t at = kept->held; at < kept->count; at++) distances[at] = INT32_MAX, positions[at] = -1;
}

/* Returns 0, or -1 where there is no memory. `marks` may be NULL. Where `by_first` is not 0, so many
 * rows are chosen by their first bytes, and only of these is the rest looked at. */
int32_t bitsift_nearest(
    const uint8_t *first_plane, int32_t first_bytes, const uint8_t *rest, int32_t rest_bytes, int64_t rows,
    const uint8_t *queries, int32_t n, int64_t count, int64_t by_first, const uint8_t *marks,
    int32_t *distances, int64_t *positions) {
  const Planes all = {first_plane, rest, first_bytes, rest_bytes}, alone = {first_plane, rest, first_bytes, 0};
  const Planes *bits = by_first ? &alone : &all;
  const int32_t row_bytes = first_bytes + rest_bytes;
  int64_t *tally = malloc(sizeof(int64_t) * (size_t)(row_bytes * 8 + 2));
  Nearest *kept = calloc((size_t)n, sizeof(Nearest));
  int failed = !tally || !kept;
  int64_t wanted = by_first ? by_first : count;
  for (int32_t q = 0; q < n && !failed; q++) {
    const uint8_t *query = queries + (size_t)q * (size_t)row_bytes;
    failed = !prepare(&kept[q], wanted);
    if (wanted >= SAMPLED_MIN && rows / wanted >= 8) kept[q].limit = likely_limit(bits, rows, query, marks, wanted);
  }
  for (int64_t first = 0; first < rows && !failed; first += BLOCK) {
    int64_t last = first + BLOCK < rows ? first + BLOCK : rows;
    for (int32_t q = 0; q < n; q++)
      consider(&kept[q], tally, bits, first, last, queries + (size_t)q * (size_t)row_bytes, marks);
  }
  for (int32_t q = 0; q < n && kept; q++) {
    const uint8_t *query = queries + (size_t)q * (size_t)row_bytes;
    if (!failed && kept[q].held < wanted && kept[q].limit <= UINT16_MAX) { /* the sample was wrong */
      kept[q].held = 0, kept[q].limit = UINT16_MAX + 1;
      consider(&kept[q], tally, bits, 0, rows, query, marks);
    }
    if (!failed && by_first) compare_rest(&kept[q], tally, &all, query, count);
    if (!failed) put(&kept[q], tally, row_bytes * 8, distances + q * count, positions + q * count);
    release(&kept[q]);
  }
  free(kept);
  free(tally);
  return failed ? -1 : 0;
}

static int64_t rows_in(const int64_t *starts, const int64_t *lists, int64_t nprobe) {
  int64_t rows = 0;
  for (int64_t i = 0; i < nprobe; i++) rows += starts[lists[i] + 1] - starts[lists[i]];
  return rows;
}

/* The same of `n` queries, for each within `nprobe` lists of its own, ascending, of which list i is
 * rows starts[i] ... starts[i + 1]. The rest is looked at of 1 in `by_first` of their rows (0: of all),
 * but of no fewer than 4 * `count`; and of all where that would be more than a quarter. */
int32_t bitsift_nearest_in_lists(
    const uint8_t *first_plane, int32_t first_bytes, const uint8_t *rest, int32_t rest_bytes,
    const int64_t *starts, const uint8_t *queries, int32_t n, const int64_t *lists, int64_t nprobe,
    int64_t count, int64_t by_first, const uint8_t *marks, int32_t *distances, int64_t *positions) {
  const Planes all = {first_plane, rest, first_bytes, rest_bytes}, alone = {first_plane, rest, first_bytes, 0};
  const int32_t row_bytes = first_bytes + rest_bytes;
  int64_t *tally = malloc(sizeof(int64_t) * (size_t)(row_bytes * 8 + 2));
  int failed = !tally;
  for (int32_t q = 0; q < n && !failed; q++, lists += nprobe) {
    const uint8_t *query = queries + (size_t)q * (size_t)row_bytes;
    int64_t rows = rows_in(starts, lists, nprobe), wanted = count;
    if (by_first) wanted = rows / by_first > 4 * count ? rows / by_first : 4 * count;
    int is_split = by_first && 4 * wanted <= rows;
    if (!is_split) wanted = count;
    const Planes *bits = is_split ? &alone : &all;
    Nearest kept;
    failed = !prepare(&kept, wanted);
    if (!failed && wanted >= SAMPLED_MIN && rows / wanted >= 4)
      kept.limit = likely_limit_in(bits, starts, lists, nprobe, rows, query, marks, wanted);
    for (int is_again = 0; !failed; is_again = 1) {
      for (int64_t i = 0; i < nprobe; i++)
        consider(&kept, tally, bits, starts[lists[i]], starts[lists[i] + 1], query, marks);
      if (is_again || kept.held >= wanted || kept.limit > UINT16_MAX) break;
      kept.held = 0, kept.limit = UINT16_MAX + 1; /* the sample was wrong */
    }
    if (!failed && is_split) compare_rest(&kept, tally, &all, query, count);
    if (!failed) put(&kept, tally, row_bytes * 8, distances + q * count, positions + q * count);
    release(&kept);
  }
  free(tally);
  return failed ? -1 : 0;
}

/* --- scores ----------------------------------------------------------------------------------- */

/* Of each row the sum of table[position][byte], in double and rounded once. */
void bitsift_estimates(
    const uint8_t *bits, int64_t rows, int32_t row_bytes, const float *table, float *out) {
  for (int64_t row = 0; row < rows; row++) {
    const uint8_t *one = bits + (size_t)row * (size_t)row_bytes;
    double a = 0, b = 0, c = 0, d = 0;
    int at = 0;
    for (; at + 4 <= row_bytes; at += 4) {
      a += table[at * 256 + one[at]];
      b += table[(at + 1) * 256 + one[at + 1]];
      c += table[(at + 2) * 256 + one[at + 2]];
      d += table[(at + 3) * 256 + one[at + 3]];
    }
    for (; at < row_bytes; at++) a += table[at * 256 + one[at]];
    out[row] = (float)((a + b) + (c + d));
  }
}

/* --- how many rows are worth reading ----------------------------------------------------------- */

/* search/adaptive.py says what these compute, and why. */
enum { NOISE_POOL = 400, NOISE_ROWS = 100, STEPS_MAX = 12 };
static const double SIGN_NOISE = 0.60281027, BRACKET = 4, SIGMA_MIN = 1e-6, TOLERANCE = 1e-5;
static const float SLOPE = 1.5976f, CURVE = 0.07056f, EXPONENT_MAX = 80;
static uint64_t spread[256]; /* byte j is bit 7 - j */

__attribute__((constructor)) static void fill_spread(void) {
  for (int byte = 0; byte < 256; byte++)
    for (int j = 0; j < 8; j++) spread[byte] |= (uint64_t)(byte >> (7 - j) & 1) << (8 * j);
}

/* The deviation of an estimate from what the row's score says, of `rows` rows nearest first. */
static double noise(const uint8_t *bits, int64_t rows, int32_t row_bytes, const float *query) {
  if (rows < 2) return 0;
  int64_t nearest = rows < NOISE_POOL ? rows : NOISE_POOL;
  int64_t step = (nearest + NOISE_ROWS - 1) / NOISE_ROWS, sampled = (nearest + step - 1) / step;
  double sum = 0;
  for (int32_t at = 0; at < row_bytes; at++) {
    uint64_t ones = 0; /* eight counts of at most 100 */
    for (int64_t row = 0; row < nearest; row += step) ones += spread[bits[row * row_bytes + at]];
    for (int j = 0; j < 8; j++) {
      double share = (double)(ones >> (8 * j) & 255) / (double)sampled, weight = query[8 * at + j];
      sum += weight * weight * share * (1 - share);
    }
  }
  return SIGN_NOISE * sqrt(sum * (4.0 * (double)sampled / (double)(sampled - 1)));
}

typedef struct {
  uint32_t key; /* ascending where estimates descend */
  int32_t place;
} Ranked;

static uint32_t key_of(float estimate) {
  uint32_t word;
  estimate += 0.0f; /* -0 is 0 */
  memcpy(&word, &estimate, 4);
  return word & 0x80000000u ? word : ~word & 0x7FFFFFFFu;
}

/* Sort by key; of equal keys the smaller of `ties` comes first. */
static void rank(Ranked *all, Ranked *room, int64_t n, const int64_t *ties) {
  for (int shift = 0; shift < 32; shift += 8) {
    int64_t starts[257] = {0};
    for (int64_t i = 0; i < n; i++) starts[(all[i].key >> shift & 255) + 1]++;
    for (int i = 0; i < 256; i++) starts[i + 1] += starts[i];
    for (int64_t i = 0; i < n; i++) room[starts[all[i].key >> shift & 255]++] = all[i];
    Ranked *sorted = room;
    room = all, all = sorted;
  }
  for (int64_t i = 1; i < n; i++)
    for (int64_t j = i; j > 0 && all[j].key == all[j - 1].key && ties[all[j].place] < ties[all[j - 1].place]; j--) {
      Ranked one = all[j];
      all[j] = all[j - 1], all[j - 1] = one;
    }
}

/* The chances of rows to be among the true best `top_k`, from their estimates, best first. */
static void memberships(const float *estimates, int64_t n, double sigma, int64_t top_k, float *chances) {
  double low = -BRACKET, high = BRACKET, middle = 0;
  float scale = (float)(sigma > SIGMA_MIN ? sigma : SIGMA_MIN), due = estimates[top_k - 1];
  for (int step = 0; step < STEPS_MAX; step++) {
    double sum = 0, slope = 0;
    for (int64_t i = 0; i < n; i++) {
      float above = (estimates[i] - due) / scale - (float)middle;
      float exponent = (-CURVE * above * above - SLOPE) * above;
      float chance = 1 / (1 + expf(exponent < EXPONENT_MAX ? exponent : EXPONENT_MAX));
      chances[i] = chance;
      sum += chance;
      slope += chance * (1 - chance) * (SLOPE + 3 * CURVE * above * above);
    }
    double too_many = sum - (double)top_k;
    if (fabs(too_many) <= TOLERANCE * (double)top_k) return;
    if (too_many > 0) low = middle; else high = middle;
    middle += too_many / (slope > SIGMA_MIN ? slope : SIGMA_MIN);
    if (!(low < middle && middle < high)) middle = (low + high) / 2;
  }
}

/* Estimates of `rows` codes, nearest first, and into `places` the best of them that are considered,
 * best first. Returns how many of these to read, or -1 where there is no memory. */
int64_t bitsift_worth_reading(
    const uint8_t *bits, int64_t rows, int32_t row_bytes, const float *table, const float *query,
    const int64_t *ties, int64_t top_k, double missed, int64_t lowest, int64_t highest,
    int64_t considered, float *estimates, int64_t *places) {
  bitsift_estimates(bits, rows, row_bytes, table, estimates);
  Ranked *all = malloc(sizeof(Ranked) * 2 * (size_t)(rows + 1));
  float *best = malloc(sizeof(float) * 2 * (size_t)(considered + 1));
  int64_t found = -1, n = rows < considered ? rows : considered;
  if (all && best) {
    for (int64_t i = 0; i < rows; i++) all[i] = (Ranked){key_of(estimates[i]), (int32_t)i};
    rank(all, all + rows, rows, ties);
    for (int64_t i = 0; i < n; i++) places[i] = all[i].place, best[i] = estimates[all[i].place];
    found = n;
    if (n > lowest) {
      float *chances = best + considered;
      memberships(best, n, noise(bits, rows, row_bytes, query), top_k, chances);
      double beyond = 0;
      for (; found > 0 && (beyond += chances[found - 1]) <= missed * (double)top_k; found--) {}
      found = found < lowest ? lowest : found > highest ? highest : found;
    }
  }
  free(all);
  free(best);
  return found;
}

/* Of the eight sums of a row's first `at` values, and of the rest of them. */
static inline float score_of(
    const double *sums, const int8_t *one, int at, int32_t width, const double *weights, double offset) {
  double sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  for (; at < width; at++) sum += one[at] * weights[at];
  return (float)(sum + offset);
}

static void products(
    const int8_t *codes, int64_t rows, int64_t stride, int32_t width, const double *weights, double offset,
    float *out) {
  for (int64_t row = 0; row < rows; row++) {
    const int8_t *one = codes + (size_t)row * (size_t)stride;
    double sums[8] = {0}; /* always eight: a row's score is the same on every processor */
    int at = 0;
    for (; at + 8 <= width; at += 8)
      for (int i = 0; i < 8; i++) sums[i] += one[at + i] * weights[at + i];
    out[row] = score_of(sums, one, at, width, weights, offset);
  }
}

#ifdef X86
AVX2 static void products_by_fours(
    const int8_t *codes, int64_t rows, int64_t stride, int32_t width, const double *weights, double offset,
    float *out) {
  for (int64_t row = 0; row < rows; row++) {
    const int8_t *one = codes + (size_t)row * (size_t)stride;
    __m256d sums[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    int at = 0;
    for (; at + 8 <= width; at += 8) {
      __m256i values = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(one + at)));
      __m256d low = _mm256_cvtepi32_pd(_mm256_castsi256_si128(values));
      __m256d high = _mm256_cvtepi32_pd(_mm256_extracti128_si256(values, 1));
      sums[0] = _mm256_add_pd(sums[0], _mm256_mul_pd(low, _mm256_loadu_pd(weights + at)));
      sums[1] = _mm256_add_pd(sums[1], _mm256_mul_pd(high, _mm256_loadu_pd(weights + at + 4)));
    }
    double all[8];
    _mm256_storeu_pd(all, sums[0]);
    _mm256_storeu_pd(all + 4, sums[1]);
    out[row] = score_of(all, one, at, width, weights, offset);
  }
}

WIDE static void products_at_once(
    const int8_t *codes, int64_t rows, int64_t stride, int32_t width, const double *weights, double offset,
    float *out) {
  for (int64_t row = 0; row < rows; row++) {
    const int8_t *one = codes + (size_t)row * (size_t)stride;
    __m512d sums = _mm512_setzero_pd();
    int at = 0;
    for (; at + 8 <= width; at += 8) {
      __m512d values = _mm512_cvtepi32_pd(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(one + at))));
      sums = _mm512_add_pd(sums, _mm512_mul_pd(values, _mm512_loadu_pd(weights + at)));
    }
    double all[8];
    _mm512_storeu_pd(all, sums);
    out[row] = score_of(all, one, at, width, weights, offset);
  }
}
#endif

/* Of each row of `codes`, which are `stride` bytes apart, the product with `weights` and `offset`, in
 * double and rounded once. */
void bitsift_scores(
    const int8_t *codes, int64_t rows, int64_t stride, int32_t width, const double *weights,
    double offset, float *out) {
  way.products(codes, rows, stride, width, weights, offset, out);
}

/* --- int8 codes of vectors -------------------------------------------------------------------- */

/* The code of the first `n` numbers of a vector; how many of them were clipped. All of it in float,
 * as numpy does it. */
static int64_t codes(
    const float *vector, int32_t n, float norm, const float *low, const float *step, int8_t *code) {
  int64_t clipped = 0;
  for (int32_t at = 0; at < n; at++) {
    float level = rintf((vector[at] / norm - low[at]) / step[at]);
    clipped += level < 0 || level > 255;
    level = level < 0 ? 0 : level > 255 ? 255 : level;
    code[at] = (int8_t)((int)level - 128);
  }
  return clipped;
}

#ifdef X86
AVX2 static int64_t codes_by_eights(
    const float *vector, int32_t n, float norm, const float *low, const float *step, int8_t *code) {
  __m256 norms = _mm256_set1_ps(norm), least = _mm256_setzero_ps(), most = _mm256_set1_ps(255);
  __m256i middle = _mm256_set1_epi32(128);
  int64_t clipped = 0;
  int32_t at = 0;
  for (; at + 8 <= n; at += 8) {
    __m256 level = _mm256_sub_ps(_mm256_div_ps(_mm256_loadu_ps(vector + at), norms), _mm256_loadu_ps(low + at));
    level = _mm256_div_ps(level, _mm256_loadu_ps(step + at));
    level = _mm256_round_ps(level, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 off = _mm256_or_ps(_mm256_cmp_ps(level, least, _CMP_LT_OQ), _mm256_cmp_ps(level, most, _CMP_GT_OQ));
    clipped += __builtin_popcount((unsigned)_mm256_movemask_ps(off));
    level = _mm256_min_ps(_mm256_max_ps(level, least), most);
    __m256i whole = _mm256_sub_epi32(_mm256_cvtps_epi32(level), middle);
    __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64((__m128i *)(code + at), _mm_packs_epi16(half, half));
  }
  return clipped + codes(vector + at, n - at, norm, low + at, step + at, code + at);
}
#endif

/* Of `rows` vectors of `dimension` numbers, each divided by its of `norms` (none: by 1), codes of
 * `width` numbers: behind a vector's own there are zeros. Returns how many numbers were clipped. */
int64_t bitsift_quantize(
    const float *vectors, int64_t rows, int32_t dimension, int32_t width, const float *norms,
    const float *low, const float *step, int8_t *out) {
  static const float zeros[8] = {0};
  int64_t clipped = 0;
  for (int64_t row = 0; row < rows; row++) {
    const float *vector = vectors + (size_t)row * (size_t)dimension;
    int8_t *code = out + (size_t)row * (size_t)width;
    clipped += way.codes(vector, dimension, norms ? norms[row] : 1, low, step, code);
    for (int32_t at = dimension; at < width; at += 8) {
      int32_t few = width - at < 8 ? width - at : 8;
      clipped += codes(zeros, few, 1, low + at, step + at, code + at);
    }
  }
  return clipped;
}

/* --- records of a file ------------------------------------------------------------------------ */

static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Read `size` bytes at each of `places` into `out`, one behind the other; zeros where the file is
 * short, or the place is 0. After each `timed` of them that took longer than `slow_ns` together it
 * ends, unless `slow_ns` is 0. Returns how many are there, or less than 0: -errno. */
int64_t bitsift_read(
    int32_t file, const int64_t *places, int64_t n, int64_t size, int64_t timed, int64_t slow_ns,
    uint8_t *out) {
  int64_t began = slow_ns ? now_ns() : 0;
  for (int64_t i = 0; i < n; i++) {
    uint8_t *record = out + i * size;
    ssize_t got = 0;
    if (places[i]) {
      do got = pread(file, record, (size_t)size, places[i]);
      while (got < 0 && errno == EINTR);
      if (got < 0) return -(int64_t)errno;
    }
    if (got < size) memset(record, 0, (size_t)size);
    if (slow_ns && (i + 1) % timed == 0) {
      int64_t now = now_ns();
      if (now - began > slow_ns) return i + 1;
      began = now;
    }
  }
  return n;
}

/* --- CRC32C ------------------------------------------------------------------------------------ */

static uint32_t crc_table[256];

__attribute__((constructor)) static void fill_crc_table(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    crc_table[byte] = crc;
  }
}

static uint32_t crc_portable(const uint8_t *data, int64_t size) {
  uint32_t crc = UINT32_MAX;
  for (int64_t i = 0; i < size; i++) crc = crc >> 8 ^ crc_table[(crc ^ data[i]) & 255];
  return ~crc;
}

#ifdef X86
__attribute__((target("sse4.2"))) static uint32_t crc_sse(const uint8_t *data, int64_t size) {
  uint64_t crc = UINT32_MAX, word;
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    memcpy(&word, data + i, 8);
    crc = _mm_crc32_u64(crc, word);
  }
  uint32_t rest = (uint32_t)crc;
  for (; i < size; i++) rest = _mm_crc32_u8(rest, data[i]);
  return ~rest;
}
#endif

/* Of the first `width` bytes of each of `n` records, which are `size` bytes apart. */
void bitsift_crc32c(const uint8_t *records, int64_t n, int64_t size, int64_t width, uint32_t *out) {
#ifdef X86
  if (way.of_one_row != portable && __builtin_cpu_supports("sse4.2")) {
    for (int64_t i = 0; i < n; i++) out[i] = crc_sse(records + i * size, width);
    return;
  }
#endif
  for (int64_t i = 0; i < n; i++) out[i] = crc_portable(records + i * size, width);
}

/* Have the system read them, without waiting. */
void bitsift_will_need(int32_t file, const int64_t *places, int64_t n, int64_t size) {
  for (int64_t i = 0; i < n; i++)
    if (places[i]) posix_fadvise(file, places[i], size, POSIX_FADV_WILLNEED);
}

/* The places of the marks of the first n rows, ascending, at most so many. */
int64_t bitsift_marked(const uint8_t *marks, int64_t n, int64_t most, int64_t *out) {
  int64_t found = 0;
  for (int64_t row = 0; row < n; row += GROUP) {
    uint64_t left;
    if (n - row >= GROUP)
      memcpy(&left, marks + row / 8, sizeof left);
    else
      left = marks_of(marks, row, (int)(n - row));
    for (; left && found < most; left &= left - 1) out[found++] = row + __builtin_ctzll(left);
  }
  return found;
}

/* --- the choice of a way ----------------------------------------------------------------------- */

static const Way WAYS[] = { /* the best first */
#ifdef X86
    {"vpopcntdq", with_vpopcnt, with_popcnt, below_at_once, products_at_once, codes_by_eights},
    {"avx2", with_avx2, with_popcnt, below_by_sixteens, products_by_fours, codes_by_eights},
    {"popcnt", with_popcnt, with_popcnt, below_one_by_one, products, codes},
#endif
    {"portable", portable, portable, below_one_by_one, products, codes},
};
enum { WAYS_COUNT = sizeof(WAYS) / sizeof(WAYS[0]) };

/* Whether this processor can go by it. */
static int can(const char *name) {
#ifdef X86
  int has_popcnt = __builtin_cpu_supports("popcnt");
  if (strcmp(name, "vpopcntdq") == 0)
    return has_popcnt && __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
  if (strcmp(name, "avx2") == 0) return has_popcnt && __builtin_cpu_supports("avx2");
  if (strcmp(name, "popcnt") == 0) return has_popcnt;
#endif
  return strcmp(name, "portable") == 0;
}

__attribute__((constructor)) static void choose_best(void) {
#ifdef X86
  __builtin_cpu_init();
  has_vbmi = __builtin_cpu_supports("avx512vbmi");
#endif
  for (int i = WAYS_COUNT - 1; i >= 0; i--)
    if (can(WAYS[i].name)) way = WAYS[i];
}

const char *bitsift_chosen(void) { return way.name; }

/* For tests and measurements: use one that this processor has, else the best. Returns whether it has
 * that one. */
int32_t bitsift_choose(const char *name) {
  choose_best();
  for (int i = 0; i < WAYS_COUNT; i++)
    if (strcmp(WAYS[i].name, name) == 0 && can(name)) {
      way = WAYS[i];
      return 1;
    }
  return 0;
}
