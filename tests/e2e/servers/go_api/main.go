// SPDX-License-Identifier: Apache-2.0

// The API of lib/api.py on net/http. Arguments: log, idle seconds, files, ports.
//
// The connection counts its bytes; a line is written when the connection turns idle or closes,
// for the requests answered since, so bytes are exact for every exchange that is not pipelined.
//
// It listens with MPTCP where it can, as a module of Go 1.24 or newer does by default.
//
//go:debug multipathtcp=2
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var logFile *os.File

// meteredConn counts octets. A read into one byte is net/http waiting for the next request:
// what it reads belongs to the exchange after this one.
type meteredConn struct {
	*net.TCPConn
	read, early, written int64

	mu      sync.Mutex
	pending []string
}

func (c *meteredConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if len(p) == 1 {
		atomic.AddInt64(&c.early, int64(n))
	} else {
		atomic.AddInt64(&c.read, int64(n)+atomic.SwapInt64(&c.early, 0))
	}
	return n, err
}

func (c *meteredConn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	atomic.AddInt64(&c.written, int64(n))
	return n, err
}

func (c *meteredConn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.TCPConn.ReadFrom(r)
	atomic.AddInt64(&c.written, n)
	return n, err
}

func (c *meteredConn) answered(line string) {
	c.mu.Lock()
	c.pending = append(c.pending, line)
	c.mu.Unlock()
}

// flush writes the waiting lines; the first one carries the bytes of all of them.
func (c *meteredConn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 && atomic.LoadInt64(&c.written) > 0 {
		c.pending = append(c.pending, "\t\t\t\t400") // net/http refused it by itself
	}
	port := c.LocalAddr().(*net.TCPAddr).Port
	for _, line := range c.pending {
		fmt.Fprintf(logFile, "%s\t%d\t%d\t%d\n", line, atomic.SwapInt64(&c.read, 0),
			atomic.SwapInt64(&c.written, 0), port)
	}
	c.pending = c.pending[:0]
}

type listener struct{ *net.TCPListener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return &meteredConn{TCPConn: c}, nil
}

type connKey struct{}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(code int) {
	if code >= 200 {
		r.status = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	return io.Copy(r.ResponseWriter, src)
}

func (r *recorder) Flush() { r.ResponseWriter.(http.Flusher).Flush() }

func line(q *http.Request, status int) string {
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%d", q.Header.Get("X-API-Key"),
		q.Header.Get("Authorization"), q.Method, q.RequestURI, status)
}

func serve(w http.ResponseWriter, q *http.Request, files string) {
	conn := q.Context().Value(connKey{}).(*meteredConn)
	io.Copy(io.Discard, q.Body)
	if strings.HasPrefix(q.URL.Path, "/upgrade") {
		upgrade(conn, w, q)
		return
	}
	rec := &recorder{w, 200}
	route(rec, q, files)
	conn.answered(line(q, rec.status))
}

func route(w *recorder, q *http.Request, files string) {
	part := strings.Split(strings.TrimPrefix(q.URL.Path, "/"), "/")
	switch {
	case q.URL.Path == "/v1/enrich":
		answer(w, 200, strings.Repeat("e", 256))
	case part[0] == "v1" && len(part) == 4 && part[3] == "extract":
		answer(w, 200, strings.Repeat("x", 512))
	case part[0] == "v1" && len(part) == 3 && part[1] == "files":
		file(w, q, files+"/"+part[2], part[2])
	case part[0] == "status":
		status(w, part[1])
	case part[0] == "chunked":
		chunked(w, part[1])
	case part[0] == "slow":
		seconds, _ := strconv.ParseFloat(q.URL.Query().Get("s"), 64)
		time.Sleep(time.Duration(seconds * float64(time.Second)))
		answer(w, 200, "ok\n")
	case part[0] == "gate":
		for _, err := os.Stat(files + "/gate"); err != nil; _, err = os.Stat(files + "/gate") {
			time.Sleep(5 * time.Millisecond)
		}
		if len(part) > 1 && part[1] == "bare" {
			w.WriteHeader(200) // to HEAD without any length
			return
		}
		answer(w, 200, "ok\n")
	case part[0] == "close":
		w.Header().Set("Transfer-Encoding", "identity")
		w.Header().Set("Connection", "close")
		io.WriteString(w, "bye\n")
	case part[0] == "early":
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(103)
		answer(w, 200, "ok\n")
	default:
		answer(w, 200, "ok\n")
	}
}

func answer(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	io.WriteString(w, body)
}

func status(w http.ResponseWriter, text string) {
	code, _ := strconv.Atoi(text)
	if code == 204 || code == 304 {
		w.WriteHeader(code)
		return
	}
	answer(w, code, text+"\n")
}

func chunked(w *recorder, text string) {
	n, _ := strconv.Atoi(text)
	w.WriteHeader(200)
	for i := 0; i < n; i++ {
		io.WriteString(w, "0123456789abcde\n")
		w.Flush()
	}
}

func file(w *recorder, q *http.Request, path, size string) {
	f, err := os.Open(path)
	if err != nil {
		answer(w, 404, "404\n")
		return
	}
	defer f.Close()
	w.Header().Set("Content-Length", size)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(200)
	if q.Method != "HEAD" {
		io.Copy(w, f)
	}
}

func upgrade(conn *meteredConn, w http.ResponseWriter, q *http.Request) {
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	conn.answered(line(q, 101))
	defer conn.flush()
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	io.Copy(c, rw)
}

func newServer(idle time.Duration, files string) *http.Server {
	return &http.Server{
		ReadTimeout: idle,
		IdleTimeout: idle,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			serve(w, q, files)
		}),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(c net.Conn, s http.ConnState) {
			if s == http.StateIdle || s == http.StateClosed {
				c.(*meteredConn).flush()
			}
		},
	}
}

func main() {
	idle, _ := strconv.Atoi(os.Args[2])
	file, err := os.OpenFile(os.Args[1], os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		panic(err)
	}
	logFile = file
	for _, port := range strings.Split(os.Args[4], ",") {
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			panic(err)
		}
		server := newServer(time.Duration(idle)*time.Second, os.Args[3])
		server.ErrorLog = nil
		go server.Serve(listener{l.(*net.TCPListener)})
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
}
