# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# A private apt for any Debian release and machine. The machine's own apt is asked where its Debian
# archive is and is not changed: lists, state and downloads live in a folder of the caller's. After
# common.sh.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
# shellcheck disable=SC2016  # apt expands these
target_format='$(REPO_URI) $(RELEASE) $(COMPONENT)'

# The archive this machine itself is installed from.
debian_uri()
{
	local codename

	if [ -n "${TALLYD_DEBIAN_URI:-}" ]; then
		echo "$TALLYD_DEBIAN_URI"
		return
	fi
	codename=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME") ||
		die "this is not Debian: set TALLYD_DEBIAN_URI"
	apt-get indextargets --no-release-info --format "$target_format" 'Identifier: Packages' |
		awk -v c="$codename" '$2 == c && $3 == "main" && !n++ { print $1 }' |
		grep . || die "no apt source has $codename main: set TALLYD_DEBIAN_URI"
}

# A private apt in $1 that knows only release $2, and what it is a supplement to.
apt_setup()
{
	local uri suite

	uri=$(debian_uri)
	mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
	: >"$1/status"
	for suite in "$2" "${2%-backports}"; do
		echo "deb [signed-by=$keyring] $uri $suite main"
	done | sort -u >"$1/sources.list"
	cat >"$1/apt.conf" <<-END
	Dir::Etc::sourcelist "$1/sources.list";
	Dir::Etc::sourceparts "-";
	Dir::State "$1";
	Dir::State::lists "$1/lists";
	Dir::State::status "$1/status";
	Dir::Cache "$1/cache";
	APT::Default-Release "$2";
	APT::Architecture "$(vm_arch)";
	APT::Architectures:: "$(vm_arch)";
	APT::Sandbox::User "";
	Acquire::Languages "none";
	Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
	Acquire::Retries "3";
	END
	export APT_CONFIG=$1/apt.conf
	apt-get -qq update
}

# Download package $2 into folder $1 and print the file's name.
apt_fetch()
{
	(cd "$1" && apt-get -qq download "$2" >&2)
	echo "$1/$2"_*.deb
}
