"""Every kernel of the package."""

from kdcache_kernels.device import (
    cosine_factors,
    direct_ds,
    direct_dw,
    gram_ds,
    gram_small,
    gram_sums,
    quantize_rows,
    spectral_align,
    spectral_align_grad,
    spectrum_dft,
    spectrum_fold4,
)

KERNELS = tuple(
    each.KERNEL
    for each in (
        cosine_factors,
        direct_ds,
        direct_dw,
        gram_ds,
        gram_small,
        gram_sums,
        quantize_rows,
        spectral_align,
        spectral_align_grad,
        spectrum_dft,
        spectrum_fold4,
    )
)
