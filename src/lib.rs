pub mod compress;
pub mod nar;
