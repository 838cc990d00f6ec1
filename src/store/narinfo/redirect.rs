//! A narinfo that leads to another place for its NAR, with signatures that stay valid.

use super::parse::{OF_DOWNLOAD, lines, split_field};
use super::{Narinfo, NarinfoError};

impl Narinfo {
    /// This narinfo with `url`, under which the NAR is had as it is, not compressed, in place of where it leads; all else
    /// stays byte for byte.
    ///
    /// Nix signs none of the fields that change. Guix signs what stands above its `Signature`: there nothing is taken away,
    /// and the new URL goes below. With an `ERIS` line of bug#52555's first version, which has no format of its own, goes the
    /// URL that it belongs to.
    pub fn redirected(&self, url: &str) -> Result<Self, NarinfoError> {
        let signed_until = self.guix_signature().map_or(0, |signature| signature.offset);
        let eris_of_url = self.field("ERISFormat").is_none();
        let leads =
            |name: &str| name == "URL" || OF_DOWNLOAD.contains(&name) || (eris_of_url && name == "ERIS");
        let here = format!("URL: {url}\nCompression: none\nFileSize: {}\n", self.nar_size());
        let mut here = Some(here.as_str());
        let mut text = String::with_capacity(self.text.len() + 128);
        for (offset, line) in lines(&self.text) {
            let is_lead = split_field(offset, line).is_some_and(|field| leads(field.name));
            if offset >= signed_until && is_lead {
                text.push_str(here.take().unwrap_or_default());
            } else {
                text.push_str(line);
                text.push('\n');
            }
        }
        text.push_str(here.unwrap_or_default());
        Self::parse(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{sample, samples};
    use super::*;

    const HERE: &str = "nar/here.nar";

    /// The lines that are not of a download.
    fn kept(narinfo: &Narinfo) -> Vec<String> {
        let kept = narinfo.fields().filter(|field| field.name != "URL" && !OF_DOWNLOAD.contains(&field.name));
        kept.map(|field| format!("{}: {}", field.name, field.value)).collect()
    }

    #[test]
    fn every_sample_leads_here_and_else_stays_as_it_was() {
        for (path, bytes) in
            samples().into_iter().filter(|(path, _)| !path.to_string_lossy().contains("bug52555"))
        {
            let narinfo = Narinfo::parse(&bytes).unwrap();
            let led = narinfo.redirected(HERE).unwrap();
            let [download] = led.downloads() else { panic!("{}: {:?}", path.display(), led.downloads()) };
            assert_eq!((download.url.as_str(), download.compression.as_deref()), (HERE, Some("none")));
            assert_eq!((download.file_size, &download.file_hash), (Some(led.nar_size()), &None));
            assert_eq!(kept(&led), kept(&narinfo), "{}", path.display());
            assert_eq!(led.redirected(HERE).unwrap(), led, "once more changes nothing");
        }
    }

    #[test]
    fn what_guix_signed_stays_byte_for_byte() {
        let narinfo = sample("bug52555/bug52555-v1.narinfo");
        let led = narinfo.redirected(HERE).unwrap();
        let text = led.as_str().strip_prefix(narinfo.as_str()).expect("all of it was signed");
        assert_eq!(text, "URL: nar/here.nar\nCompression: none\nFileSize: 220704\n");
    }

    #[test]
    fn an_unsigned_eris_line_without_a_format_goes_with_its_url() {
        let narinfo = sample("nix/none/pgrawpvabzgfv20fap3h5994n80h2x6a.narinfo");
        let urn = "urn:eris:BIBC2LUTIQH43S2KRIAV7TBXNUUVPZTMV6KFA2M7AL5V6FNE77VNUDDVDAGJUEEAFATVO2QQT67SMOPTO3LGWCJFU7BZVCF5VXEQQW25BE";
        let bare = narinfo.with_line("ERIS", urn).unwrap();
        assert_eq!(bare.redirected(HERE).unwrap().eris(), []);
        let with_format = bare.with_line("ERISFormat", "application/x-nix-archive+zstd").unwrap();
        assert_eq!(with_format.redirected(HERE).unwrap().eris().len(), 1);
    }
}
