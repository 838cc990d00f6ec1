//! Two real GNUnet peers: blocks that one puts into the DHT are read through the other, by the plug-in of the documentation.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::noise::noise;
use super::peers::peer;
use super::process::{Running, run};
use super::scratch::{Scratch, text};

const PLUG_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/carriers/examples/gnunet.py");
/// How long values stay in the test of their end, in seconds.
const EXPIRE: u64 = 8;

/// The plug-in at one of the peers. The GNUnet of the peers lives in a namespace: commands of its names lead there.
fn at_peer(scratch: &Scratch, number: u8, options: &str) -> String {
    let commands = scratch.folder(&format!("commands-{number}"));
    let kit = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/kit/gnunet.sh");
    for name in ["gnunet-dht-get", "gnunet-dht-put"] {
        // What makes the output come at once is lost on the way in.
        let script = format!(
            "#!/bin/sh\nexport PEERS='{}'\nexec '{}' run stdbuf -oL {name} \"$@\"\n",
            peer("PEERS"),
            kit.display()
        );
        let file = commands.join(name);
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("PATH={}:$PATH {PLUG_IN} -c /share/gnunet/p{number}/gnunet.conf {options}", text(&commands))
}

fn put(scratch: &Scratch, plug_in: &str, content: &[u8]) -> String {
    fs::write(scratch.at("content"), content).unwrap();
    let put = ["put", "--block-size", "32k", "--blocks", &format!("exec:{plug_in}"), "content"];
    run(&mut scratch.erisfs(put)).text().trim_end().to_owned()
}

#[test]
#[ignore = "needs the peers of tests/peers/run"]
fn gnunet_carries_blocks_from_peer_to_peer() {
    peer("GNUNET_NETNS");
    let scratch = Scratch::new();
    let content = noise(400_000);
    let urn = put(&scratch, &at_peer(&scratch, 1, ""), &content);
    let other = format!("exec:{}", at_peer(&scratch, 2, ""));
    assert_eq!(scratch.run(["get", "--blocks", &other, &urn]).bytes(), content);

    fs::write(scratch.at("content"), noise(5_000)).unwrap();
    let elsewhere = run(&mut scratch.erisfs(["put", "--blocks", &scratch.blocks(), "content"])).text();
    let begun = Instant::now();
    let refusal = scratch.run(["get", "--blocks", &other, elsewhere.trim_end()]).refusal(1);
    assert!(refusal.contains("is not in exec:"), "{refusal}");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

#[test]
#[ignore = "needs the peers of tests/peers/run"]
fn gnunet_forgets_what_is_not_put_again() {
    let scratch = Scratch::new();
    let kept = scratch.at("kept");
    let expire = format!("--expire {EXPIRE}");
    let keep = format!("{expire} --keep {}", text(&kept));
    let (first, second) = (at_peer(&scratch, 1, &keep), format!("exec:{}", at_peer(&scratch, 2, "")));
    let content = noise(30_000);
    let urn = put(&scratch, &first, &content);
    assert!(fs::read_dir(&kept).unwrap().count() > 0);
    {
        let path = format!("{}:{}", text(&scratch.at("commands-1")), std::env::var("PATH").unwrap());
        let mut republish = Command::new(PLUG_IN);
        republish.args(["-c", "/share/gnunet/p1/gnunet.conf", "--republish"]).args(keep.split(' '));
        let _republisher = Running::start(republish.env("PATH", path));
        sleep(Duration::from_secs(2 * EXPIRE));
        assert_eq!(scratch.run(["get", "--blocks", &second, &urn]).bytes(), content);
    }
    sleep(Duration::from_secs(2 * EXPIRE));
    let refusal = scratch.run(["get", "--blocks", &second, &urn]).refusal(1);
    assert!(refusal.contains("is not in exec:"), "{refusal}");
    // What was kept is a directory of blocks.
    let directory = format!("dir:{}", text(&kept));
    assert_eq!(scratch.run(["get", "--blocks", &directory, &urn]).bytes(), content);
}
