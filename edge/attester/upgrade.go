package main

import (
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// An upgraded connection: from the 101 on, bytes are copied both ways.

// upgrade takes the client's connection over, answers it with the gateway's 101,
// and returns when both sides have ended, or one has failed.
func upgrade(w http.ResponseWriter, r *http.Request, a *answer) error {
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	var once sync.Once
	closeBoth := func() {
		once.Do(func() {
			client.Close()
			a.conn.socket.Close()
		})
	}
	defer closeBoth()
	if _, err := io.WriteString(buffered, "HTTP/1.1 101 Switching Protocols\r\n"); err != nil {
		return err
	}
	if err := a.Header.Write(buffered); err != nil {
		return err
	}
	if _, err := io.WriteString(buffered, "\r\n"); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}

	gateway := upgraded{a.conn, a.timeout}
	toGateway := make(chan error, 1)
	go func() {
		err := pass(gateway, io.MultiReader(io.LimitReader(buffered.Reader, int64(buffered.Reader.Buffered())), client))
		if err != nil {
			closeBoth()
		}
		toGateway <- err
	}()
	err = pass(client, gateway)
	if err != nil {
		closeBoth()
	}
	if other := <-toGateway; err == nil {
		err = other
	}
	return err
}

// upgraded is the gateway's end of an upgraded connection. A write to it may take
// timeout while nothing comes from it: as long as the write waits nobody reads
// the client's connection, so the client's going is not seen.
type upgraded struct {
	*backendConn
	timeout time.Duration
}

func (u upgraded) Read(p []byte) (int, error) {
	n, err := u.in.Read(p)
	if n > 0 {
		u.extendWrite(u.timeout)
	}
	return n, err
}

func (u upgraded) Write(p []byte) (int, error) {
	u.extendWrite(u.timeout)
	return u.backendConn.Write(p)
}

// CloseWrite is of both the socket and TLS.
func (u upgraded) CloseWrite() error {
	return u.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// pass copies until src ends, and ends dst's half with it.
func pass(dst net.Conn, src io.Reader) error {
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	if half, ok := dst.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return dst.Close()
}
