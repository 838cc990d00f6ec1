//! `nix-cache-info` of any server: what is accepted says the same when it is written anew.

#![no_main]

use erisfs::substituter::Info;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(info) = Info::parse(input) else { return };
    let store_dir = info.store_dir.as_ref().map(|dir| format!("StoreDir: {dir}\n")).unwrap_or_default();
    let mass_query = u8::from(info.want_mass_query);
    let again = format!("{store_dir}WantMassQuery: {mass_query}\nPriority: {}\n", info.priority);
    assert_eq!(Info::parse(again.as_bytes()), Ok(info));
});
