import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/**
 * Posts a file with HttpClient, as a stream of unknown length, and prints the response.
 *
 * <p>Arguments: the URL, the media type, and the path of the file.
 */
public class ChunkedClient {
    public static void main(String[] arguments) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("content-type", arguments[1])
                .POST(BodyPublishers.ofInputStream(() -> open(arguments[2])))
                .build();
        var response = HttpClient.newHttpClient().send(request, BodyHandlers.ofString());
        System.out.println(response.body());
        System.exit(response.statusCode() == 200 ? 0 : 1);
    }

    private static InputStream open(String path) {
        try {
            return new FileInputStream(path);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
