// SPDX-License-Identifier: Apache-2.0
#include "base/loop.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>

enum source_kind { SOURCE_FD, SOURCE_TIMER, SOURCE_SIGNALS };

struct tally_loop_source {
	struct tally_loop *loop;
	struct tally_loop_source *next;
	enum source_kind kind;
	int fd;
	int clock;
	bool removed; /* freed when the events at hand are through */
	uint64_t at_ns, every_ns;
	sigset_t signals;
	tally_loop_fn fn;
	void *ctx;
};

struct tally_loop {
	int epoll_fd;
	struct tally_loop_source *sources;
	bool dispatching, quit;
	int value;
};

int tally_loop_new(struct tally_loop **ret_loop)
{
	_cleanup_free_ struct tally_loop *loop = calloc(1, sizeof(*loop));

	if (!loop)
		return -ENOMEM;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		return -errno;
	*ret_loop = TAKE_PTR(loop);
	return 0;
}

/* Frees what was removed. */
static void sweep(struct tally_loop *loop)
{
	struct tally_loop_source **p = &loop->sources;

	while (*p) {
		struct tally_loop_source *source = *p;

		if (!source->removed) {
			p = &source->next;
			continue;
		}
		*p = source->next;
		free(source);
	}
}

void tally_loop_remove(struct tally_loop_source *source)
{
	if (!source)
		return;
	(void)epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_DEL, source->fd,
			NULL); /* may be closed */
	if (source->kind != SOURCE_FD)
		tally_util_close(source->fd);
	if (source->kind == SOURCE_SIGNALS)
		(void)sigprocmask(SIG_UNBLOCK, &source->signals, NULL);
	source->removed = true;
	if (!source->loop->dispatching)
		sweep(source->loop);
}

void tally_loop_free(struct tally_loop *loop)
{
	if (!loop)
		return;
	loop->dispatching = true; /* keep the list whole while it is walked */
	for (struct tally_loop_source *s = loop->sources; s; s = s->next)
		if (!s->removed)
			tally_loop_remove(s);
	sweep(loop);
	tally_util_close(loop->epoll_fd);
	free(loop);
}

static int add(struct tally_loop *loop, const struct tally_loop_source *model, uint32_t events,
	       struct tally_loop_source **ret_source)
{
	_cleanup_free_ struct tally_loop_source *source = malloc(sizeof(*source));
	struct epoll_event event = { .events = events };

	if (!source)
		return -ENOMEM;
	*source = *model;
	source->loop = loop;
	event.data.ptr = source;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, source->fd, &event) < 0)
		return -errno;
	source->next = loop->sources;
	loop->sources = source;
	*ret_source = TAKE_PTR(source);
	return 0;
}

int tally_loop_add_fd(struct tally_loop *loop, int fd, uint32_t events, tally_loop_fn fn, void *ctx,
		      struct tally_loop_source **ret_source)
{
	struct tally_loop_source model = { .kind = SOURCE_FD, .fd = fd, .fn = fn, .ctx = ctx };

	return add(loop, &model, events, ret_source);
}

int tally_loop_set_events(struct tally_loop_source *source, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	return epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event) < 0 ? -errno
											: 0;
}

int tally_loop_add_timer(struct tally_loop *loop, int clock, tally_loop_fn fn, void *ctx,
			 struct tally_loop_source **ret_source)
{
	_cleanup_close_ int fd = timerfd_create(clock, TFD_CLOEXEC | TFD_NONBLOCK);
	struct tally_loop_source model = {
		.kind = SOURCE_TIMER, .fd = fd, .clock = clock, .fn = fn, .ctx = ctx
	};
	int r;

	if (fd < 0)
		return -errno;
	r = add(loop, &model, EPOLLIN, ret_source);
	if (r == 0)
		(void)TAKE_FD(fd);
	return r;
}

static struct timespec to_timespec(uint64_t ns)
{
	return (struct timespec){ .tv_sec = (time_t)(ns / TALLY_NS_PER_S),
				  .tv_nsec = (long)(ns % TALLY_NS_PER_S) };
}

int tally_loop_set_timer(struct tally_loop_source *source, uint64_t at_ns, uint64_t every_ns)
{
	struct itimerspec spec = { .it_value = to_timespec(at_ns),
				   .it_interval = to_timespec(at_ns ? every_ns : 0) };
	int flags = TFD_TIMER_ABSTIME;

	if (source->clock == CLOCK_REALTIME)
		flags |= TFD_TIMER_CANCEL_ON_SET;
	if (timerfd_settime(source->fd, flags, &spec, NULL) < 0)
		return -errno;
	source->at_ns = at_ns;
	source->every_ns = every_ns;
	return 0;
}

int tally_loop_add_signals(struct tally_loop *loop, const int *signals, tally_loop_fn fn, void *ctx,
			   struct tally_loop_source **ret_source)
{
	struct tally_loop_source model = { .kind = SOURCE_SIGNALS, .fd = -1, .fn = fn, .ctx = ctx };
	_cleanup_close_ int fd = -1;
	int r;

	sigemptyset(&model.signals);
	for (; *signals; signals++)
		sigaddset(&model.signals, *signals);
	fd = signalfd(-1, &model.signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	model.fd = fd;
	r = add(loop, &model, EPOLLIN, ret_source);
	if (r < 0)
		return r;
	(void)TAKE_FD(fd);
	return sigprocmask(SIG_BLOCK, &model.signals, NULL) < 0 ? -errno : 0;
}

static int dispatch_timer(struct tally_loop_source *source)
{
	uint64_t expirations = 0;

	if (read(source->fd, &expirations, sizeof(expirations)) < 0) {
		if (errno == EAGAIN)
			return 0;
		if (errno != ECANCELED)
			return -errno;
		expirations =
			0; /* the clock was set: the owner looks at it and sets the timer anew */
	}
	return source->fn(source->ctx, 0, expirations);
}

static int dispatch_signals(struct tally_loop_source *source)
{
	struct signalfd_siginfo info;
	int r = 0;

	while (r >= 0 && !source->removed && read(source->fd, &info, sizeof(info)) == sizeof(info))
		r = source->fn(source->ctx, 0, info.ssi_signo);
	return r;
}

static int dispatch(struct tally_loop_source *source, uint32_t events)
{
	if (source->removed)
		return 0;
	switch (source->kind) {
	case SOURCE_FD:
		return source->fn(source->ctx, events, 0);
	case SOURCE_TIMER:
		return dispatch_timer(source);
	case SOURCE_SIGNALS:
		return dispatch_signals(source);
	}
	return -EINVAL;
}

int tally_loop_turn(struct tally_loop *loop, int timeout_ms)
{
	struct epoll_event events[32];
	int n = epoll_wait(loop->epoll_fd, events, TALLY_ARRAY_SIZE(events), timeout_ms);
	int r = 0;

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	loop->dispatching = true;
	for (int i = 0; i < n && r >= 0 && !loop->quit; i++)
		r = dispatch(events[i].data.ptr, events[i].events);
	loop->dispatching = false;
	sweep(loop);
	return r < 0 ? r : n;
}

int tally_loop_run(struct tally_loop *loop)
{
	loop->quit = false;
	while (!loop->quit) {
		int r = tally_loop_turn(loop, -1);

		if (r < 0)
			return r;
	}
	return loop->value;
}

void tally_loop_quit(struct tally_loop *loop, int value)
{
	loop->quit = true;
	loop->value = value;
}
