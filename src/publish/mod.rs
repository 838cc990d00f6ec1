//! Store paths into blocks, narinfos and a catalog.

pub mod database;
