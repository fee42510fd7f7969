# make demo    the main job, on embedded defaults; needs only Go
# make test    everything that CI runs
# make help    the rest

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

GO ?= go
BIN := $(CURDIR)/bin
# What could not run here is collected in this file and printed at the end.
NOT_RUN := $(BIN)/not-run
FUZZTIME ?= 60s
# Where a program is installed, its suites must run. (-count=1 where it stands
# below: go's cache of results does not see the files of other modules.)
REQUIRED = bash .ci/deps --complete nginx && export NGINX_REQUIRED=1; \
	bash .ci/deps --complete redis && export REDIS_REQUIRED=1; \
	bash .ci/deps --complete prometheus && export PROMTOOL_REQUIRED=1; \
	bash .ci/deps --complete curl && export CURL_REQUIRED=1;
VERSION ?= 0.1.0

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build gatectl, wallarm-gate (the plugin) and attester into bin/
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/gatectl ./cmd/gatectl
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/wallarm-gate ./plugin
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/attester ./edge/attester

.PHONY: demo
demo: build ## Run the whole way of a request with every scenario, good and bad
	@$(BIN)/gatectl demo --plugin $(BIN)/wallarm-gate --attester $(BIN)/attester

.PHONY: test
test: ## Run everything that CI runs; says at the end what could not run
	@mkdir -p $(BIN) && : > $(NOT_RUN)
	@$(MAKE) deps
	@$(MAKE) lint
	@$(MAKE) lint-ci
	@$(MAKE) test-go
	@$(MAKE) lint-edge
	@$(MAKE) test-edge
	@$(MAKE) test-chart
	@$(MAKE) e2e
	@$(MAKE) faults
	@$(MAKE) demo
	@$(MAKE) report

.PHONY: deps
deps: ## Install what the tests want from Debian, where root and apt are there
	@bash .ci/deps $(NOT_RUN)

.PHONY: lint
lint: ## gofmt, vet, staticcheck
	@test -z "$$(git ls-files -- '*.go' | xargs gofmt -l | tee /dev/stderr)" || { echo "gofmt would change the files above"; exit 1; }
	$(GO) vet ./...
	@$(MAKE) $(BIN)/staticcheck
	$(BIN)/staticcheck ./...

# The tools' own go.mod keeps them out of the product's.
$(BIN)/staticcheck: tools/go.mod tools/go.sum
	@mkdir -p $(BIN)
	cd tools && $(GO) build -o $@ honnef.co/go/tools/cmd/staticcheck

.PHONY: lint-ci
lint-ci: ## The workflow files
	@$(MAKE) $(BIN)/actionlint
	$(BIN)/actionlint -shellcheck= -pyflakes=

$(BIN)/actionlint: tools/go.mod tools/go.sum
	@mkdir -p $(BIN)
	cd tools && $(GO) build -o $@ github.com/rhysd/actionlint/cmd/actionlint

.PHONY: audit
audit: ## Known vulnerabilities in what the binaries call; asks vuln.go.dev, or the copy that VULNDB names
	@$(MAKE) $(BIN)/govulncheck
	$(BIN)/govulncheck $(if $(VULNDB),-db $(VULNDB)) ./plugin ./edge/attester ./cmd/gatectl

$(BIN)/govulncheck: tools/go.mod tools/go.sum
	@mkdir -p $(BIN)
	cd tools && $(GO) build -o $@ golang.org/x/vuln/cmd/govulncheck

.PHONY: test-go
test-go: ## Unit tests and the suites on real processes, race detector on
	@if [ -z "$${KONG_BIN:-}" ]; then echo "the embedded gateway beside a real Kong: KONG_BIN names none" >> $(NOT_RUN); fi; \
	$(REQUIRED) $(GO) test -race ./...

.PHONY: lint-edge
lint-edge: ## The edge module: documentation tables, tflint, tfsec
	@$(MAKE) $(BIN)/tfsec
	$(BIN)/terraform-docs edge/terraform --output-check
	cd edge/terraform && $(BIN)/tflint --recursive --config "$$PWD/.tflint.hcl"
	@for dir in edge/terraform edge/terraform/examples/*/; do \
		$(BIN)/tfsec --concise-output $$dir || exit 1; done

$(BIN)/tfsec: tools/go.mod tools/go.sum
	@mkdir -p $(BIN)
	cd tools && $(GO) build -o $(BIN)/ github.com/terraform-docs/terraform-docs github.com/terraform-linters/tflint github.com/aquasecurity/tfsec/cmd/tfsec

.PHONY: test-edge
test-edge: ## The edge module on the schema stand-in: no AWS account, no registry; and the Dockerfiles
	@if command -v terraform >/dev/null; then export TERRAFORM_REQUIRED=1; else \
		echo "the suites of the edge module (test/edge, edge/terraform/tests): terraform is not installed" >> $(NOT_RUN); fi; \
	if [ "$${TF_PROVIDER:-}" = registry ]; then \
		echo "plan and apply of the edge module: TF_PROVIDER=registry only validates, it would call AWS" >> $(NOT_RUN); fi; \
	$(REQUIRED) cd test && $(GO) vet ./... && $(GO) test -count=1 $$($(GO) list ./... | grep -v /e2e$$)

.PHONY: test-chart
test-chart: ## The chart: rendered, decoded strictly, and run with the real plugin
	@$(MAKE) $(BIN)/helm
	@if [ -z "$${KONG_BIN:-}" ]; then echo "the rendered chart in a real Kong: KONG_BIN names none" >> $(NOT_RUN); fi; \
	if [ ! -x $(BIN)/kube-apiserver ]; then echo "the chart in a real kube-apiserver: make test-apiserver builds one" >> $(NOT_RUN); fi; \
	$(REQUIRED) cd test/chart && $(GO) vet ./... && HELM=$(BIN)/helm HELM_REQUIRED=1 $(GO) test -count=1 ./...

.PHONY: test-apiserver
test-apiserver: ## The chart in a real kube-apiserver, dry run (its first build takes some ten minutes)
	@$(MAKE) $(BIN)/helm $(BIN)/kube-apiserver $(BIN)/etcd
	cd test/chart && HELM=$(BIN)/helm HELM_REQUIRED=1 APISERVER_REQUIRED=1 $(GO) test -count=1 -run TestAPIServer .

$(BIN)/kube-apiserver: tools/kube/go.mod tools/kube/go.sum
	@mkdir -p $(BIN)
	cd tools/kube && $(GO) build -trimpath -ldflags='-s -w' -o $@ k8s.io/kubernetes/cmd/kube-apiserver

$(BIN)/etcd: tools/kube/go.mod tools/kube/go.sum
	@mkdir -p $(BIN)
	cd tools/kube && $(GO) build -trimpath -ldflags='-s -w' -o $@ go.etcd.io/etcd/server/v3

# What the end-to-end suite needs: Terraform's plan, the rendered chart, a real nginx.
# go test without a package shows what a passing run says: what it did not observe.
E2E = @$(MAKE) $(BIN)/helm; $(REQUIRED) command -v terraform >/dev/null && export TERRAFORM_REQUIRED=1; \
	cd test/e2e && HELM=$(BIN)/helm HELM_REQUIRED=1 $(GO) test -count=1 -timeout 20m

.PHONY: e2e
e2e: ## Both sides together, from the plan and the rendered chart; GATEWAY=kong with KONG_BIN, or docker, or url
	@if ! command -v terraform >/dev/null; then echo "the end-to-end suite and the faults: terraform is not installed" >> $(NOT_RUN); fi
	@if [ -z "$${KONG_BIN:-}" ]; then echo "the end-to-end suite, the faults and the benchmarks on a real Kong: KONG_BIN names none" >> $(NOT_RUN); fi
	$(E2E) -skip '^TestFaults$$'

.PHONY: faults
faults: ## What happens when a part fails, under load; WRITE=1 writes docs/faults.md
	@disk=$$(mktemp -d); if mount -t tmpfs -o size=64k tmpfs "$$disk" 2>/dev/null; then umount "$$disk"; else \
		echo "the fault of a full disk: no tmpfs can be mounted" >> $(NOT_RUN); fi; rmdir "$$disk"
	$(E2E) -run '^TestFaults$$' -v $(if $(WRITE),-write)

$(BIN)/helm: tools/helm/go.mod tools/helm/go.sum
	@mkdir -p $(BIN)
	cd tools/helm && $(GO) build -trimpath -o $@ helm.sh/helm/v3/cmd/helm

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (60s)
	@for pkg in $$($(GO) list ./...) ; do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

.PHONY: mutate
mutate: ## Change each comparison and bound of the verifier; prints what no test notices (half an hour)
	@mkdir -p $(BIN)
	cd tools && $(GO) build -o $(BIN)/mutate ./mutate
	$(BIN)/mutate evidence

.PHONY: bench
bench: ## Benchmarks: each gives its ratio to a named baseline of the same run; KONG_BIN adds a real Kong
	@$(MAKE) $(BIN)/helm
	@if [ -z "$${KONG_BIN:-}" ]; then echo "LEFT OUT: the gateway on a real Kong: KONG_BIN names none"; fi
	@if ! command -v redis-server >/dev/null; then echo "LEFT OUT: the shared replay store: redis-server is not installed"; fi
	@{ $(GO) test -run '^$$' -bench . -benchtime 1s ./evidence ./plugin ./edge/attester; \
	cd test && HELM=$(BIN)/helm $(GO) test -run '^$$' -bench . -benchtime 1x ./e2e; } | awk ' \
		/^Benchmark/ { sub(/^Benchmark/, "", $$1); print $$1; \
			for (i = 3; i < NF; i += 2) printf "  %14s  %s\n", $$i, $$(i + 1); \
			for (i = 3; i < NF; i += 2) if ($$(i + 1) == "roundtrips/op") trips = $$i } \
		/^(FAIL|panic|---)/ { print; failed = 1 } \
		END { if (trips != "") printf "\nPDK round trips per allowed request: %g\n", trips; exit failed }'

.PHONY: dist
dist: ## The files of release VERSION in dist/: gatectl for each platform, the chart, the module
	@$(MAKE) $(BIN)/helm
	@rm -rf dist && mkdir dist
	@grep -qx 'version: $(VERSION)' charts/wallarm-gate/Chart.yaml || \
		{ echo "make dist: charts/wallarm-gate/Chart.yaml is not version $(VERSION)"; exit 1; }
	@for platform in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64; do \
		GOOS=$${platform%/*} GOARCH=$${platform#*/} CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' \
			-o dist/gatectl-$(VERSION)-$${platform%/*}-$${platform#*/} ./cmd/gatectl || exit 1; done
	$(BIN)/helm package --destination dist charts/wallarm-gate
	@# The module reads ../node: both folders, at their places.
	git archive --format=tar.gz --prefix=wallarm-gate-edge-$(VERSION)/ -o dist/wallarm-gate-edge-$(VERSION).tar.gz HEAD LICENSE edge/terraform edge/node

.PHONY: report
report: ## Say what the last test run left out
	@if [ -s $(NOT_RUN) ]; then printf '\n=== NOT RUN HERE ===\n'; sed 's/^/  - /' $(NOT_RUN); else printf '\nEverything ran.\n'; fi

.PHONY: clean
clean: ## Remove bin/ and dist/
	rm -rf $(BIN) dist
