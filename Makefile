# Short names for the scripts, which do the work and need no make.
.PHONY: demo test check docker

demo:
	scripts/demo

test:
	scripts/test

# What has to hold before a change is merged.
check:
	.ci/run

docker:
	docker build --tag portcullis .
