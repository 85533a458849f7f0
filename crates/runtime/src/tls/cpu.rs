//! Whether the processor can do what graviola's assembly does; it panics on one that can't.

use super::TlsError;

/// What is needed, and whether it is there (`is_cpu_supported`, graviola 0.4).
#[cfg(target_arch = "x86_64")]
fn features() -> [(&'static str, bool); 6] {
    use std::arch::is_x86_feature_detected as has;
    [
        ("adx", has!("adx")),
        ("aes", has!("aes")),
        ("avx", has!("avx")),
        ("avx2", has!("avx2")),
        ("bmi1", has!("bmi1")),
        ("pclmulqdq", has!("pclmulqdq")),
    ]
}

/// What is needed, and whether it is there (`is_cpu_supported`, graviola 0.4).
#[cfg(target_arch = "aarch64")]
fn features() -> [(&'static str, bool); 4] {
    use std::arch::is_aarch64_feature_detected as has;
    [("neon", has!("neon")), ("aes", has!("aes")), ("pmull", has!("pmull")), ("sha2", has!("sha2"))]
}

/// Says what the processor lacks.
pub(super) fn check() -> Result<(), TlsError> {
    missing(&features())
}

fn missing(features: &[(&str, bool)]) -> Result<(), TlsError> {
    let lacks: Vec<&str> = features.iter().filter(|(_, is)| !is).map(|(name, _)| *name).collect();
    if lacks.is_empty() { Ok(()) } else { Err(TlsError::Processor { lacks: lacks.join(", ") }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert!(missing(&[("aes", true)]).is_ok());
        let error = missing(&[("adx", false), ("aes", true), ("avx2", false)]).unwrap_err();
        assert!(error.to_string().contains("lacks adx, avx2:"), "{error}");
    }
}
