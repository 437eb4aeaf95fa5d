# The commands of the README. Each installs what it lacks first (scripts/setup says what).
.PHONY: demo test check docker

# A gateway before a sample service, with an embedded ledger and signed tokens to try: prints what to paste.
demo:
	scripts/setup --build
	cargo run --release --locked -- demo

# Every test, with Redis, PostgreSQL and MariaDB of its own.
test:
	scripts/setup --test
	cargo test --locked

# What has to hold before a change is merged.
check:
	.ci/run

docker:
	docker build --tag portcullis .
