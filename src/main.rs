//! Parse, run, exit.

use std::process::ExitCode;

use portcullis::allocator::Mimalloc;

#[global_allocator]
static ALLOCATOR: Mimalloc = Mimalloc;

fn main() -> ExitCode {
    portcullis::cli::main()
}
