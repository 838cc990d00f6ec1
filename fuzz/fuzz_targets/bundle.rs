//! Bundles that the fuzzer wrote: looked at, imported, searched, and added to.

#![no_main]

use erisfs::block::{Block, BlockStore, Bundle, Memory};
use erisfs::eris::reference_of;
use erisfs_fuzz::{File, wait};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let file = File::with("bundle", input);
    let (bundle, store) = (Bundle::new(file.path()), Memory::new());
    wait(async {
        let contents = bundle.contents().await;
        match bundle.import(&store, |_, _| {}).await {
            Ok(imported) => {
                let (capabilities, damage) = contents.expect("it was imported");
                assert_eq!((imported.capabilities, imported.damage), (capabilities, damage));
                assert!(imported.blocks as usize >= store.len());
            }
            Err(_) => assert!(contents.is_err()),
        }
        // What is taken is there, for this store and for the next one.
        let block = Block::from_static(&[7; 1024]);
        let reference = reference_of(&block);
        if bundle.put(&reference, block.clone()).await.is_ok() {
            assert_eq!(bundle.get(&reference).await.expect("it was put"), block);
            let again = Bundle::new(file.path());
            assert_eq!(again.get(&reference).await.expect("it was put"), block);
            assert_eq!(again.contents().await.expect("it was mended").1, None);
        }
    });
});
