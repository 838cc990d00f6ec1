//! Bytes that look random and are the same each time.

/// `length` bytes of noise, others for each length.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = length as u64 + 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}
