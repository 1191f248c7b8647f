// acc += the sums of four products of codes (u8) and activations (i8), in every i32 lane; in place, as in avx512.h.
// Compiled with -mavx512vnni -mavx512vl in place of -mavxvnni, the same text is the same instruction in its other
// encoding: that is how kernels over this header are checked by hand where there is AVX-512 and no AVX-VNNI.
#ifdef __AVXVNNI__
#define DPBUSD(acc, codes, x) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(codes), "x"(x))
#else
#define DPBUSD(acc, codes, x) __asm__("vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(codes), "x"(x))
#endif
