package main

import (
	"io"
	"net"
	"net/http"
	"sync"
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

	toGateway := make(chan error, 1)
	go func() {
		err := pass(a.conn.Conn, io.MultiReader(io.LimitReader(buffered.Reader, int64(buffered.Reader.Buffered())), client))
		if err != nil {
			closeBoth()
		}
		toGateway <- err
	}()
	err = pass(client, a.conn.in)
	if err != nil {
		closeBoth()
	}
	if other := <-toGateway; err == nil {
		err = other
	}
	return err
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
