//! What happens when sources of blocks go wrong: each fault of the shaped origin, seen through the stores as the program puts them
//! together, and through a real mount.
//!
//! In every one: the right bytes, or an error within the deadline; nothing wrong is delivered, and nothing wrong is kept. With a good
//! source beside the bad one the bytes come, and a source that is dead costs little once and then nothing. That a jump of the
//! clock harms nobody is not tried out, since the clock belongs to the machine: `tests/layers.rs` has the rule that nothing here
//! looks at it, and waits go by the monotonic clock.

mod came_back;
mod mounted;
#[path = "../support/noise.rs"]
mod noise;
#[path = "../support/origin/mod.rs"]
mod origin;
mod reader;
mod shape;
#[path = "../support/shelf.rs"]
mod shelf;
mod stores;
mod trouble;

use std::time::Duration;

use mounted::{a_mount_answers_in_time_and_keeps_nothing_wrong, a_mount_reads_from_the_good_source};
use origin::Fault;
use stores::{alone_it_ends_in_time_and_leaves_nothing_wrong, before_a_good_source_it_costs_little_once};
use trouble::Trouble;

const SECOND: Duration = Duration::from_secs(1);

/// The promises as tests of each trouble.
macro_rules! promised {
    ($($name:ident: $trouble:expr;)+ => $promises:tt) => {
        $(promised!(@ $name, $trouble, $promises);)+
    };
    (@ $name:ident, $trouble:expr, [$($promise:ident),+ $(,)?]) => {
        mod $name {
            use super::*;

            $(
                #[test]
                fn $promise() {
                    super::$promise($trouble);
                }
            )+
        }
    };
}

promised! {
    a_refused_connection: Trouble::Dead(Fault::Refused);
    a_404: Trouble::Lacking(Fault::Status(404));
    a_429: Trouble::Dead(Fault::Busy { retry_after: 3 * SECOND });
    a_500: Trouble::Dead(Fault::Status(500));
    a_slow_first_byte: Trouble::Slow(Fault::SlowFirstByte(4 * SECOND));
    a_stall_in_the_body: Trouble::Dead(Fault::Stalled);
    a_truncated_body: Trouble::Dead(Fault::Truncated);
    too_long_a_body: Trouble::Dead(Fault::TooLong);
    a_wrong_block_of_the_right_length: Trouble::Dead(Fault::OtherBlock);
    a_reset: Trouble::Dead(Fault::Reset);
    a_server_that_says_nothing: Trouble::Dead(Fault::Silent);
    a_redirect_loop: Trouble::Dead(Fault::RedirectLoop);
    a_server_that_comes_and_goes: Trouble::Slow(Fault::Flapping { up: SECOND / 3, down: SECOND / 3 });
    => [
        alone_it_ends_in_time_and_leaves_nothing_wrong,
        before_a_good_source_it_costs_little_once,
        a_mount_answers_in_time_and_keeps_nothing_wrong,
        a_mount_reads_from_the_good_source,
    ]
}

// Nobody mounts from such a source alone: the catalog cannot be had.
promised! {
    an_unknown_host: Trouble::UnknownHost;
    an_untrusted_certificate: Trouble::Untrusted;
    => [
        alone_it_ends_in_time_and_leaves_nothing_wrong,
        before_a_good_source_it_costs_little_once,
        a_mount_reads_from_the_good_source,
    ]
}
