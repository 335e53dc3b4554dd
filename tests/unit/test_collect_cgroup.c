// SPDX-License-Identifier: Apache-2.0
/* Where cgroup v2 is mounted, and which folders a pattern names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "base/util.h"
#include "collect/cgroup.h"

/* mountinfo ------------------------------------------------------------------------------------- */

static int mount_of(const char *text, char *out, size_t size)
{
	char path[] = "/tmp/test_cgroup.XXXXXX";
	int fd = mkstemp(path), err;

	assert_true(fd >= 0);
	assert_int_equal(tally_util_write_all(fd, text, strlen(text)), 0);
	close(fd);
	err = tally_cgroup_mount_in(path, out, size);
	unlink(path);
	return err;
}

static void test_mount(void **state)
{
	char out[64];

	/* alone, as on a host of today */
	assert_int_equal(
		mount_of("22 1 0:20 / /proc rw - proc proc rw\n"
			 "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
			 out, sizeof(out)),
		0);
	assert_string_equal(out, "/sys/fs/cgroup");
	/* beside the controllers of v1 */
	assert_int_equal(mount_of("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
				  "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
				  out, sizeof(out)),
			 0);
	assert_string_equal(out, "/sys/fs/cgroup/unified");
	/* in a container: its own part, and the host's tree mounted elsewhere */
	assert_int_equal(
		mount_of("50 1 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
			 "51 1 0:26 /../../.. /host/sys/fs/cgroup ro - cgroup2 cgroup rw\n",
			 out, sizeof(out)),
		0);
	assert_string_equal(out, "/host/sys/fs/cgroup");
	/* a folder of it bound somewhere is not the tree */
	assert_int_equal(
		mount_of("52 1 0:26 /system.slice /mnt rw - cgroup2 cgroup rw\n", out, sizeof(out)),
		-ENOENT);
	assert_int_equal(mount_of("", out, sizeof(out)), -ENOENT);
	assert_int_equal(mount_of("nonsense - cgroup2 \n", out, sizeof(out)), -ENOENT);
	assert_int_equal(tally_cgroup_mount_in("/nowhere", out, sizeof(out)), -ENOENT);
}

/* patterns -------------------------------------------------------------------------------------- */

static void test_matches(void **state)
{
	static const struct {
		const char *pattern, *path;
		bool matches;
	} cases[] = {
		{ "/system.slice/geo.service", "/system.slice/geo.service", true },
		{ "/system.slice/geo*.service", "/system.slice/geo-1.service", true },
		{ "/system.slice/geo*.service", "/system.slice/other.service", false },
		{ "/system.slice/geo*.service", "/system.slice/a/geo.service", false },
		{ "/system.slice/geo*.service", "/system.slice", false },
		{ "/system.slice/geo*.service", "/system.slice/geo.service/below", false },
		{ "/*/geo.service", "/user.slice/geo.service", true },
		{ "/*/geo.service", "/geo.service", false },
		{ "**/geo.service", "/geo.service", true },
		{ "**/geo.service", "/a/b/geo.service", true },
		{ "**/geo.service", "/a/b/geo.services", false },
		{ "/kubepods*/**/pod1", "/kubepods.slice/x/y/pod1", true },
		{ "/kubepods*/**/pod1", "/other/x/pod1", false },
		{ "/a/**", "/a", true },
		{ "/a/**", "/a/b", true },
		{ "/", "", true },
		{ "/", "/a", false },
		{ "/a/", "/a", true },
		{ "/[ab]", "/b", true },
		{ "/[ab]", "/c", false },
		/* a backslash stands for itself */
		{ "/s.slice/a@b\\x2dc.service", "/s.slice/a@b\\x2dc.service", true },
		{ "/s.slice/a@b\\x2d*.service", "/s.slice/a@b\\x2dc.service", true },
		{ "/a\\*", "/a*", false },
		{ "/a[*]", "/a*", true },
	};

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++)
		if (tally_cgroup_matches(cases[i].pattern, cases[i].path) != cases[i].matches)
			fail_msg("%s on %s", cases[i].pattern, cases[i].path);
}

static void test_units(void **state)
{
	static const struct {
		const char *unit, *path;
		bool is;
	} cases[] = {
		{ "geo.service", "/system.slice/geo.service", true },
		{ "geo.service", "/system.slice/system-geo.slice/geo.service", true },
		{ "geo.service", "/geo.service", true },
		{ "init.scope", "/init.scope", true },
		{ "system.slice", "/system.slice", true },
		{ "geo.service", "/system.slice/geo.service/geo.service", false },
		{ "geo.service", "/system.slice/geo.service/below", false },
		{ "geo.service", "/system.slice/geo-2.service", false },
		{ "geo-*.service", "/system.slice/geo-2.service", true },
		{ "geo@eu\\x2dwest.service", "/system.slice/geo@eu\\x2dwest.service", true },
		{ "geo@eu\\x2dwest.service", "/system.slice/geo@eux2dwest.service", false },
		{ "geo.service", "", false },
		/* trees that were given to somebody */
		{ "geo.service",
		  "/user.slice/user-1000.slice/user@1000.service/app.slice/geo.service", false },
		{ "geo.service", "/machine.slice/machine-a.scope/system.slice/geo.service", false },
		{ "geo.service", "/docker/0123/system.slice/geo.service", false },
		{ "user@1000.service", "/user.slice/user-1000.slice/user@1000.service", true },
	};

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++)
		if (tally_cgroup_is_unit(cases[i].unit, cases[i].path) != cases[i].is)
			fail_msg("%s on %s", cases[i].unit, cases[i].path);
}

/* folders --------------------------------------------------------------------------------------- */

static const char *const folders[] = { "/system.slice",
				       "/system.slice/geo-1.service",
				       "/system.slice/geo-1.service/inner",
				       "/system.slice/geo-2.service",
				       "/user.slice",
				       "/user.slice/geo-3.service" };

static int make_tree(void **state)
{
	char *root = strdup("/tmp/test_cgroup.XXXXXX");
	char path[128];

	assert_non_null(root);
	assert_non_null(mkdtemp(root));
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(folders); i++) {
		snprintf(path, sizeof(path), "%s%s", root, folders[i]);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	*state = root;
	return 0;
}

static int remove_tree(void **state)
{
	char path[128];

	for (size_t i = TALLY_ARRAY_SIZE(folders); i-- > 0;) {
		snprintf(path, sizeof(path), "%s%s", (char *)*state, folders[i]);
		rmdir(path);
	}
	assert_int_equal(rmdir(*state), 0);
	free(*state);
	return 0;
}

static void test_find(void **state)
{
	const char *root = *state;
	struct tally_cgroups found = {};
	struct stat st;

	assert_int_equal(tally_cgroup_find(root, "/system.slice/geo*", NULL, &found), 0);
	assert_int_equal(found.n, 2);
	for (size_t i = 0; i < found.n; i++) {
		assert_int_equal(found.items[i].level, 2);
		assert_int_equal(stat(found.items[i].path, &st), 0);
		assert_int_equal(found.items[i].id, st.st_ino);
	}
	/* more of another service are added */
	assert_int_equal(tally_cgroup_find(root, "**/geo-3.service", NULL, &found), 0);
	assert_int_equal(found.n, 3);
	assert_non_null(strstr(found.items[2].path, "/user.slice/geo-3.service"));
	tally_cgroups_done(&found);

	assert_int_equal(tally_cgroup_find_unit(root, "geo-3.service", NULL, &found), 0);
	assert_int_equal(tally_cgroup_find_unit(root, "inner", NULL, &found), 0);
	assert_int_equal(found.n, 1);
	tally_cgroups_done(&found);

	assert_int_equal(tally_cgroup_find(root, "/", NULL, &found), 0);
	assert_int_equal(found.n, 1);
	assert_int_equal(found.items[0].level, 0);
	assert_string_equal(found.items[0].path, root);
	tally_cgroups_done(&found);

	assert_int_equal(tally_cgroup_find(root, "/nothing/here", NULL, &found), 0);
	assert_int_equal(found.n, 0);
	tally_cgroups_done(&found);
}

/* What does not fit is counted; what fits is there. */
static void test_too_many(void **state)
{
	const char *root = *state;
	struct tally_cgroups found = {};

	assert_int_equal(tally_cgroup_find(root, "/system.slice/geo-1.service", NULL, &found), 0);
	while (found.n < TALLY_CGROUPS_MAX - 1)
		assert_int_equal(tally_cgroup_add(root, "/user.slice", &found), 0);
	assert_int_equal(tally_cgroup_find(root, "/system.slice/*", NULL, &found), 0);
	assert_int_equal(found.n, TALLY_CGROUPS_MAX);
	assert_int_equal(found.left_out, 1);
	assert_int_equal(tally_cgroup_add(root, "/user.slice", &found), -E2BIG);
	tally_cgroups_done(&found);
}

/* What does not exist yet is noticed when it comes, and when a folder on the way to it comes. */
static void test_watch(void **state)
{
	const char *root = *state;
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	struct tally_cgroup_watch watch = { .fd = fd };
	struct tally_cgroups found = {};
	char events[4096], path[128];

	assert_true(fd >= 0);
	assert_int_equal(tally_cgroup_find(root, "/a/b", &watch, &found), 0);
	assert_int_equal(found.n, 0);
	snprintf(path, sizeof(path), "%s/a", root);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_true(read(fd, events, sizeof(events)) > 0);
	assert_int_equal(tally_cgroup_find(root, "/a/b", &watch, &found), 0);
	assert_int_equal(found.n, 0);
	snprintf(path, sizeof(path), "%s/a/b", root);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_true(read(fd, events, sizeof(events)) > 0);
	assert_int_equal(tally_cgroup_find(root, "/a/b", &watch, &found), 0);
	assert_int_equal(found.n, 1);
	tally_cgroups_done(&found);
	assert_int_equal(rmdir(path), 0);
	assert_true(read(fd, events, sizeof(events)) > 0);
	snprintf(path, sizeof(path), "%s/a", root);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(watch.failed, 0);
	close(fd);
	assert_int_equal(tally_cgroup_find(root, "/a/b", &watch, &found), 0);
	assert_true(watch.failed > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mount),
		cmocka_unit_test(test_matches),
		cmocka_unit_test(test_units),
		cmocka_unit_test_setup_teardown(test_find, make_tree, remove_tree),
		cmocka_unit_test_setup_teardown(test_too_many, make_tree, remove_tree),
		cmocka_unit_test_setup_teardown(test_watch, make_tree, remove_tree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
