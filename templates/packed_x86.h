// Registers of {{ vector_bytes }} bytes by one set of names, for what packed_*.c do with them on x86-64.
#include <immintrin.h>
{% set bits = 8 * vector_bytes %}
typedef int32_t __attribute__((may_alias, aligned(1))) word; // four activations
typedef __m{{ bits }}i vec;
#define SET8 _mm{{ bits }}_set1_epi8
#define SET16 _mm{{ bits }}_set1_epi16
#define SET32 _mm{{ bits }}_set1_epi32
#define ZERO _mm{{ bits }}_setzero_si{{ bits }}
#define LOAD(p) _mm{{ bits }}_loadu_si{{ bits }}((const vec *)(p))
#define STORE(p, v) _mm{{ bits }}_storeu_si{{ bits }}((vec *)(p), v)
#define AND _mm{{ bits }}_and_si{{ bits }}
#define SHR16 _mm{{ bits }}_srli_epi16
#define SAR32 _mm{{ bits }}_srai_epi32
#define ADD32 _mm{{ bits }}_add_epi32
#define SUB32 _mm{{ bits }}_sub_epi32
#define MADD16 _mm{{ bits }}_madd_epi16
#define MADDUBS _mm{{ bits }}_maddubs_epi16
