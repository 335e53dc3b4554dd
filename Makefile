# SPDX-License-Identifier: Apache-2.0
#
# One makefile for everything, not recursive. `make help` lists the targets.
#
#	build/meter.bpf.o -> build/meter.skel.h	   bpf/meter.bpf.c, clang for BPF
#	build/obj/    -> build/tallyd		   user/*.c user/*/*.c, gcc
#	build/san/    -> build/test/SUITE/NAME	   tests of unit, vectors, diff: ASan and UBSan
#	build/obj/    -> build/test/SUITE/NAME	   tests of kernel, e2e, bench, vm: as shipped
#	build/fuzz/   -> build/test/fuzz/NAME	   libFuzzer, clang
#
# Each .c file under tests/SUITE is one program; what several share is a header, or lib*.c, which
# is linked to all programs of its suite; a folder with a SUITE.c is one program. X.bpf.c under tests/ becomes build/tests/.../X.skel.h
# (#include "tests/kernel/X.skel.h"). A program needs no registration.
# Someone who builds twice at once takes another folder: make BUILD=/somewhere/else.

VERSION := 0.1.0
# For another machine: ARCH=arm64, and SYSROOT, a tree of its libraries (`make arm64` does both).
HOST	:= $(shell dpkg --print-architecture 2>/dev/null || echo amd64)
ARCH	?= $(HOST)
SYSROOT ?=
BUILD	?= build
# Never into the folder of this machine's objects: BUILD is often set by who builds several things.
SUFFIX	:= $(if $(filter-out $(HOST),$(ARCH)),-$(ARCH))
NATIVE	:= $(if $(SUFFIX),$(patsubst %$(SUFFIX),%,$(BUILD)),$(BUILD))
B	:= $(NATIVE)$(SUFFIX)
V	?=
Q	:= $(if $(V),,@)
say	= @printf '  %-8s %s\n' '$(1)' '$(patsubst $(B)/%,%,$(2))'

.DELETE_ON_ERROR:
.SUFFIXES:
.SECONDARY:
MAKEFLAGS += --no-builtin-rules

# Tools -----------------------------------------------------------------------------------------

TRIPLE_amd64 := x86_64-linux-gnu
TRIPLE_arm64 := aarch64-linux-gnu
TRIPLE	:= $(or $(TRIPLE_$(ARCH)),$(shell gcc -print-multiarch))
CROSS_COMPILE ?= $(if $(filter-out $(HOST),$(ARCH)),$(TRIPLE)-)
CC	:= $(CROSS_COMPILE)gcc
PKG_CONFIG := $(if $(CROSS_COMPILE),PKG_CONFIG_SYSROOT_DIR=$(SYSROOT) \
	PKG_CONFIG_LIBDIR=$(SYSROOT)/usr/lib/$(TRIPLE)/pkgconfig:$(SYSROOT)/usr/share/pkgconfig )pkg-config
CLANG	?= clang
BPFTOOL ?= $(firstword $(wildcard /usr/sbin/bpftool /usr/local/sbin/bpftool) bpftool)
PKGS	:= libbpf libelf zlib rdkafka yaml-0.1 jansson libcrypto libpcap libmicrohttpd libcurl \
	   libseccomp
PKG_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell $(PKG_CONFIG) --libs $(PKGS) 2>/dev/null)

# Flags -----------------------------------------------------------------------------------------

# gcc does not take (void) for a reason to ignore a result; clang does, and checks it (fuzz, clang-tidy).
WERROR	?=
WARN	:= -Wall -Wextra -Wno-unused-parameter -Wshadow -Wvla -Wstrict-prototypes \
	   -Wmissing-prototypes -Wformat=2 -Werror=implicit-function-declaration \
	   -Werror=incompatible-pointer-types -Werror=int-conversion -Werror=return-type
REPRO	:= -ffile-prefix-map=$(CURDIR)=.
CPPFLAGS := -Iinclude -Iuser -I. -I$(B) -D_GNU_SOURCE -DTALLY_VERSION='"$(VERSION)"' $(PKG_CFLAGS)
CFLAGS	:= $(SYSROOT:%=--sysroot=%) -std=gnu11 -g $(WARN) $(WERROR) $(REPRO)
BRANCHES_amd64 := -fcf-protection
BRANCHES_arm64 := -mbranch-protection=standard
HARDEN	:= -O2 -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection \
	   $(BRANCHES_$(ARCH)) -fPIE
LDFLAGS := $(SYSROOT:%=--sysroot=%) -pie -Wl,-z,relro,-z,now -Wl,--as-needed
LDLIBS	:= $(PKG_LIBS) -lpthread -lm
SANITIZE := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FUZZ	:= -O1 -fsanitize=address,undefined -fno-sanitize-recover=all

# As the kernel's tracing headers name the machine.
BPF_ARCH := $(or $(ARCH:amd64=x86),$(ARCH))
BPF_CFLAGS := -O2 -g -target bpf -mcpu=v3 -D__TARGET_ARCH_$(BPF_ARCH) -std=gnu11 -Iinclude -Ibpf -I. \
	   -Wall -Wextra -Wno-unused-function -Wno-unused-parameter -Werror=return-type \
	   -fno-stack-protector -idirafter $(SYSROOT)/usr/include/$(TRIPLE) $(REPRO)

# Sources ---------------------------------------------------------------------------------------

USER_SRC  := $(sort $(wildcard user/*.c user/*/*.c))
LIB_SRC   := $(filter-out user/main.c,$(USER_SRC))
BPF_SRC   := $(wildcard bpf/meter.bpf.c)
SKEL	  := $(BPF_SRC:bpf/%.bpf.c=$(B)/%.skel.h)
TEST_BPF  := $(sort $(wildcard tests/*/*.bpf.c))
TEST_SKEL := $(TEST_BPF:%.bpf.c=$(B)/%.skel.h)
HEADERS   := $(sort $(wildcard include/*/*.h bpf/*.h bpf/*/*.h user/*.h user/*/*.h))

# programs SUITES PREFIX: the test programs of these suites
not_lib	  = $(foreach f,$(1),$(if $(filter lib%,$(notdir $(f))),,$(f)))
mains	  = $(or $(wildcard tests/$(1)/$(1).c),$(call not_lib,$(wildcard tests/$(1)/$(2)*.c)))
programs  = $(patsubst tests/%.c,$(B)/test/%,$(filter-out %.bpf.c,\
	    $(sort $(foreach s,$(1),$(call mains,$(s),$(2))))))
SAN_PROGS := $(call programs,unit,test_) $(call programs,vectors diff sim)
OBJ_PROGS := $(call programs,kernel e2e bench vm kafka)
FUZZ_PROGS := $(call programs,fuzz,fuzz_)
MANUAL	  := $(B)/manual
DEMO_PROGS := $(patsubst deploy/demo/%.c,$(B)/demo-%,$(sort $(wildcard deploy/demo/*.c)))

# Targets ---------------------------------------------------------------------------------------

.PHONY: all tests demo demo-live check check-long check-hosts bench fuzz soak faults lint format install deb clean deps help
all: $(SKEL) $(B)/obj/libtally.a $(if $(wildcard user/main.c),$(B)/tallyd) $(DEMO_PROGS) ## build tallyd and the demo's programs

tests: all $(SAN_PROGS) $(OBJ_PROGS) $(FUZZ_PROGS) ## build every test program

deps: ## install what building, the demo and the tests need (Debian packages; root)
	scripts/install-deps.sh build demo package test

demo: ## install, build, meter an nginx API, compare with its own log (root)
	@scripts/demo.sh

demo-live: ## the same, left running to play with (root)
	@scripts/demo.sh --live

check: deps ## every suite that fits 30 minutes (root)
	scripts/check.sh

check-long: deps ## a real Kafka with 200 faults, load, planted bugs, power cuts: another 40 minutes (root)
	scripts/check.sh --long

check-hosts: deps ## a Kubernetes API server, a booted Debian, an arm64 machine: 45 minutes (root)
	scripts/check.sh --hosts

bench: deps ## nanoseconds per exchange, throughput with and without the meter (root)
	scripts/check.sh build bench

soak: deps ## load and faults for as long as TALLY_SOAK_S and MINUTES say, an hour each (root)
	scripts/check.sh build soak soak-faults

faults: deps ## a real Kafka: kills, errors at every call, full disk, broker away; upgrades; the simulator (root)
	scripts/check.sh build faults calls calls-agent upgrades histories

lint: ## format, layers, headers, shellcheck, licences
	tests/lint/run.sh

fuzz: ## make fuzz T=request [SECONDS=60]: one libFuzzer target; without T, list them
	scripts/fuzz.sh "$(T)" "$(or $(SECONDS),60)"

clean: ## remove the build folder
	rm -rf $(B)

format: ## clang-format everything kept in git
	tests/lint/run.sh apply-format

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# Kernel side -----------------------------------------------------------------------------------

$(B)/%.bpf.o: bpf/%.bpf.c | $(B)/.tools
	$(call say,BPF,$@)
	$(Q)$(CLANG) $(BPF_CFLAGS) -MMD -MP -c $< -o $@

$(B)/tests/%.bpf.o: tests/%.bpf.c | $(B)/.tools
	@mkdir -p $(@D)
	$(call say,BPF,$@)
	$(Q)$(CLANG) $(BPF_CFLAGS) -MMD -MP -c $< -o $@

# Generated beside and renamed: a reader never sees half a header.
$(B)/%.skel.h: $(B)/%.bpf.o
	$(call say,SKEL,$@)
	$(Q)$(BPFTOOL) gen skeleton $< name $(subst -,_,$(notdir $*))_bpf >$@.tmp && mv $@.tmp $@

# User side: the same sources in three flavours -------------------------------------------------

# flavour NAME COMPILER FLAGS
define flavour
$(B)/$(1)/%.o: %.c | $(B)/.tools
	@mkdir -p $$(@D)
	$$(call say,CC,$$@)
	$$(Q)$(2) $$(CPPFLAGS) $$(CFLAGS) $(3) -MMD -MP -c $$< -o $$@

$(B)/$(1)/libtally.a: $(LIB_SRC:%.c=$(B)/$(1)/%.o)
	$$(call say,AR,$$@)
	@mkdir -p $$(@D)
	$$(Q)rm -f $$@ && ar rcsD $$@ $$^
endef
$(eval $(call flavour,obj,$(CC),$(HARDEN) -Wno-unused-result))
$(eval $(call flavour,san,$(CC),$(SANITIZE) -Wno-unused-result))
$(eval $(call flavour,fuzz,$(CLANG),$(FUZZ) -fsanitize=fuzzer-no-link \
	-Wno-unknown-warning-option -Wno-missing-field-initializers -Wno-format-nonliteral))

# The status page is part of the program (.incbin).
$(foreach f,obj san fuzz,$(B)/$(f)/user/observe/page.o): user/observe/page.html

$(B)/tallyd: $(B)/obj/user/main.o $(B)/obj/libtally.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(MANUAL): $(B)/obj/deploy/debian/manual.o $(B)/obj/libtally.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(DEMO_PROGS): $(B)/demo-%: $(B)/obj/deploy/demo/%.o
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# Tests -----------------------------------------------------------------------------------------

# libs FLAVOUR PROGRAM: what of its suite is linked to it; tests of the kernel play vectors, too
others	  = $(if $(wildcard tests/$(1)/$(1).c),$(filter-out tests/$(1)/$(1).c,$(wildcard tests/$(1)/*.c)),\
	    $(wildcard tests/$(1)/lib*.c $(if $(filter kernel,$(1)),tests/vectors/lib*.c)))
libs	  = $(patsubst %.c,$(B)/$(1)/%.o,$(sort $(call others,$(patsubst $(B)/test/%/,%,$(dir $(2))))))
TEST_LIBS := $(shell $(PKG_CONFIG) --libs cmocka 2>/dev/null)
$(B)/test/diff/%: TEST_LIBS += -lhttp_parser

.SECONDEXPANSION:
$(SAN_PROGS): $(B)/test/%: $(B)/san/tests/%.o $$(call libs,san,$$@) $(B)/san/libtally.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(SANITIZE) -Wl,--as-needed $^ $(LDLIBS) $(TEST_LIBS) -o $@

$(OBJ_PROGS): $(B)/test/%: $(B)/obj/tests/%.o $$(call libs,obj,$$@) $(B)/obj/libtally.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) $(TEST_LIBS) -o $@

$(FUZZ_PROGS): $(B)/test/%: $(B)/fuzz/tests/%.o $$(call libs,fuzz,$$@) $(B)/fuzz/libtally.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CLANG) $(FUZZ) -fsanitize=fuzzer -Wl,--as-needed $^ $(LDLIBS) $(TEST_LIBS) -o $@

# Who includes a skeleton: built before the first compile; then the .d files know.
COLLECT := $(patsubst %.c,%.o,$(filter user/collect/%,$(LIB_SRC)))
$(COLLECT:%=$(B)/obj/%) $(COLLECT:%=$(B)/san/%) $(COLLECT:%=$(B)/fuzz/%): | $(SKEL)
$(OBJ_PROGS:$(B)/test/%=$(B)/obj/tests/%.o) $(B)/obj/tests/kernel/libprograms.o $(SAN_PROGS:$(B)/test/%=$(B)/san/tests/%.o): | $(SKEL) $(TEST_SKEL)

# Every header compiles alone (tests/lint calls this); those of bpf/ stand on vmlinux.h.
.PHONY: headers
headers: $(HEADERS:%=$(B)/alone/%.ok)
$(B)/alone/include/%.ok: KIND = bpf
$(B)/alone/bpf/%.ok: KIND = bpf
$(B)/alone/%.ok: % | $(SKEL) $(B)/.tools
	@mkdir -p $(@D)
	$(Q)$(if $(KIND),$(CLANG) $(BPF_CFLAGS) -include bpf/vmlinux.h,$(CC) $(CPPFLAGS) $(CFLAGS)) -w \
		-fsyntax-only -MMD -MP -MT $@ -MF $(@:.ok=.d) -x c -include $< /dev/null
	@touch $@

# For tests; KIND=bpf: of the programs
.PHONY: print-flags skeletons
print-flags:
	@echo "$(filter-out -Werror=% -W%,$(if $(filter bpf,$(KIND)),$(BPF_CFLAGS),$(CPPFLAGS) $(CFLAGS)))"
skeletons: $(SKEL) $(TEST_SKEL)

# Tools are checked once, and what is missing is named.
$(B)/.tools:
	@mkdir -p $(B)
	@for t in $(CC) $(CLANG) $(BPFTOOL) pkg-config; do command -v $$t >/dev/null || \
		{ echo "$$t is missing: sudo make deps" >&2; exit 1; }; done
	@$(PKG_CONFIG) --print-errors --exists $(PKGS) cmocka || \
		{ echo "libraries are missing: sudo make deps" >&2; exit 1; }
	@touch $@

# Install ---------------------------------------------------------------------------------------

DESTDIR ?=
PREFIX	?= /usr
# As conffiles: what is there is the operator's.
install_conffile = test -e $(DESTDIR)$(3) || install -D -m $(1) $(2) $(DESTDIR)$(3)
PAGES	:= tallyd.8 tallyd.yaml.5 tallyd-keys.yaml.5
install: all $(if $(CROSS_COMPILE),native,$(MANUAL)) ## copy what the package holds under DESTDIR and PREFIX
	install -D -m 0755 $(B)/tallyd $(DESTDIR)$(PREFIX)/sbin/tallyd
	@command -v scdoc >/dev/null || echo 'scdoc is missing: no manual (scripts/install-deps.sh package)' >&2
	$(Q)! command -v scdoc >/dev/null || for page in $(PAGES); do \
		install -d $(DESTDIR)$(PREFIX)/share/man/man$${page##*.} && \
		$(NATIVE)/manual $$page | scdoc >$(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$$page || exit 1; done
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/lib/systemd/system
	$(NATIVE)/manual completion >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/tallyd
	sed 's|/usr/sbin/|$(PREFIX)/sbin/|' deploy/systemd/tallyd.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/tallyd.service
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/tallyd README.md LICENSE
	$(if $(wildcard LICENSES/*),install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/tallyd/LICENSES LICENSES/*)
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/tallyd/examples deploy/examples/*.yaml
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/tallyd/examples/tallyd.service.d deploy/systemd/tallyd.service.d/*.conf
	$(if $(wildcard deploy/schema/*),install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/tallyd/schema deploy/schema/*)
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/tallyd/prometheus deploy/prometheus/*
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/tallyd/grafana deploy/grafana/*.json
	install -d -m 0750 $(DESTDIR)/etc/tallyd $(DESTDIR)/var/lib/tallyd
	$(call install_conffile,0640,deploy/debian/tallyd.yaml,/etc/tallyd/tallyd.yaml)
	$(call install_conffile,0640,deploy/debian/keys.yaml,/etc/tallyd/keys.yaml)
	$(call install_conffile,0644,deploy/debian/logrotate,/etc/logrotate.d/tallyd)

deb: all $(if $(CROSS_COMPILE),native,$(MANUAL)) ## the Debian package, in the build folder
	NATIVE=$(NATIVE) deploy/debian/build.sh $(B) $(VERSION) $(ARCH)

# What is made for another machine needs the manual, which this one prints.
.PHONY: native arm64
native:
	+$(Q)$(MAKE) --no-print-directory ARCH=$(HOST) SYSROOT= BUILD=$(NATIVE) $(NATIVE)/manual $(NATIVE)/tallyd
arm64: ## cross-compile for arm64 into build-arm64, with libraries from Debian packages
	+$(Q)$(MAKE) --no-print-directory ARCH=arm64 SYSROOT=$$(scripts/sysroot.sh arm64) all

-include $(shell find $(B) -name '*.d' 2>/dev/null)
