// Post a file with net/http, in pieces whose number is not known in advance, and print the response.
// Arguments: the URL, the media type, and the path of the file.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	reader, writer := io.Pipe()
	go func() {
		file, err := os.Open(os.Args[3])
		if err == nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{writer}, struct{ io.Reader }{file}, make([]byte, 60000))
		}
		writer.CloseWithError(err)
	}()
	response, err := http.Post(os.Args[1], os.Args[2], reader)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer response.Body.Close()
	if _, err = io.Copy(os.Stdout, response.Body); err != nil || response.StatusCode != http.StatusOK {
		fmt.Fprintln(os.Stderr, response.Status, err)
		os.Exit(1)
	}
}
