//! The texts that Nix's signatures speak of.
//!
//! Nix signs no narinfo but a *fingerprint* of what matters in it. It covers no ERIS content, so the caches that publish
//! some sign a second text of the same kind for it; the first word keeps the two apart.

use super::narinfo::{ErisBinding, Narinfo};

/// What `Sig` signs: `1;STOREPATH;NARHASH;NARSIZE;REFERENCES`, the last being absolute paths, sorted, with commas.
pub fn fingerprint(narinfo: &Narinfo) -> String {
    let store_dir = narinfo.store_dir();
    let mut references: Vec<_> = narinfo.references().iter().collect();
    references.sort_unstable();
    references.dedup();
    let references: Vec<_> = references.into_iter().map(|path| store_dir.join(path)).collect();
    format!(
        "1;{};{};{};{}",
        store_dir.join(narinfo.store_path()),
        narinfo.nar_hash(),
        narinfo.nar_size(),
        references.join(",")
    )
}

/// What `ERISSig` signs: `eris;1;STOREPATH;NARHASH;NARSIZE;FORMAT;URN`, the format empty where the narinfo names none.
///
/// None if the format or the URN has a semicolon, as the text could then be read in two ways.
pub fn eris_fingerprint(narinfo: &Narinfo, content: &ErisBinding) -> Option<String> {
    let format = content.format.as_deref().unwrap_or("");
    (!format.contains(';') && !content.urn.contains(';')).then(|| {
        format!(
            "eris;1;{};{};{};{format};{}",
            narinfo.store_dir().join(narinfo.store_path()),
            narinfo.nar_hash(),
            narinfo.nar_size(),
            content.urn
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARINFO: &str = "StorePath: /nix/store/pgrawpvabzgfv20fap3h5994n80h2x6a-tree\n\
        NarHash: sha256-CV1fcvy2yz/u64yD6LG2PzMYjD0LIjFZ5EqKI5iGIlE=\n\
        NarSize: 0101416\n\
        References: v6aq93ycagivwjd24sdq6bk8mm0h4jj1-b 4dzcv7h48khvib1hhs2csypslwcsn6zy-a \
        v6aq93ycagivwjd24sdq6bk8mm0h4jj1-b\n";

    fn narinfo(lines: &str) -> Narinfo {
        format!("{NARINFO}{lines}").parse().unwrap()
    }

    #[test]
    fn the_fingerprint_is_canonical_however_the_narinfo_is_written() {
        let hash = narinfo("").nar_hash();
        assert!(hash.to_string().starts_with("sha256:"));
        assert_eq!(
            fingerprint(&narinfo("")),
            format!(
                "1;/nix/store/pgrawpvabzgfv20fap3h5994n80h2x6a-tree;{hash};101416;\
                 /nix/store/4dzcv7h48khvib1hhs2csypslwcsn6zy-a,/nix/store/v6aq93ycagivwjd24sdq6bk8mm0h4jj1-b"
            )
        );
    }

    #[test]
    fn the_fingerprint_of_an_eris_content_names_format_and_urn() {
        let text = |lines: &str| {
            let narinfo = narinfo(lines);
            eris_fingerprint(&narinfo, &narinfo.eris()[0])
        };
        let hash = narinfo("").nar_hash();
        let head = format!("eris;1;/nix/store/pgrawpvabzgfv20fap3h5994n80h2x6a-tree;{hash};101416");
        assert_eq!(text("ERISFormat: a/b\nERIS: urn:eris:X\n"), Some(format!("{head};a/b;urn:eris:X")));
        assert_eq!(text("ERIS: urn:eris:X\n"), Some(format!("{head};;urn:eris:X")));
        assert_eq!(text("ERISFormat: a;b\nERIS: urn:eris:X\n"), None);
        assert_eq!(text("ERISFormat: a/b\nERIS: urn;eris:X\n"), None);
    }
}
